#include "metrics/correlation.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>

#include "tensor/check.h"
#include "tensor/random.h"

namespace facet {
namespace {

void check(std::span<const double> x, std::span<const double> y) {
  FACET_CHECK(x.size() == y.size() && x.size() >= 2, "correlation",
              "expected two series of one length of at least 2, got {} and {}", x.size(), y.size());
}

int sign(double v) {
  return (v > 0.0) - (v < 0.0);
}

}  // namespace

double pearson(std::span<const double> x, std::span<const double> y) {
  check(x, y);
  const auto n = static_cast<double>(x.size());
  const double mean_x = std::accumulate(x.begin(), x.end(), 0.0) / n;
  const double mean_y = std::accumulate(y.begin(), y.end(), 0.0) / n;
  double xx = 0.0, yy = 0.0, xy = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double dx = x[i] - mean_x, dy = y[i] - mean_y;
    xx += dx * dx;
    yy += dy * dy;
    xy += dx * dy;
  }
  if (xx == 0.0 || yy == 0.0) return std::numeric_limits<double>::quiet_NaN();
  return std::clamp(xy / (std::sqrt(xx) * std::sqrt(yy)), -1.0, 1.0);
}

double spearman(std::span<const double> x, std::span<const double> y) {
  check(x, y);
  return pearson(ranks(x), ranks(y));
}

double kendall(std::span<const double> x, std::span<const double> y) {
  check(x, y);
  // Pairs that differ in x, in y, and concordant minus discordant ones.
  int64_t in_x = 0, in_y = 0, balance = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const int sx = sign(x[i] - x[j]), sy = sign(y[i] - y[j]);
      in_x += sx != 0;
      in_y += sy != 0;
      balance += sx * sy;
    }
  }
  if (in_x == 0 || in_y == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(balance) /
         (std::sqrt(static_cast<double>(in_x)) * std::sqrt(static_cast<double>(in_y)));
}

double r_squared(std::span<const double> x, std::span<const double> y) {
  const double r = pearson(x, y);
  return r * r;
}

std::vector<double> ranks(std::span<const double> x) {
  std::vector<size_t> order(x.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] < x[b]; });
  std::vector<double> result(x.size());
  for (size_t first = 0; first < order.size();) {
    size_t last = first;
    while (last + 1 < order.size() && x[order[last + 1]] == x[order[first]]) ++last;
    const double rank = 0.5 * static_cast<double>(first + last) + 1.0;
    for (size_t i = first; i <= last; ++i) result[order[i]] = rank;
    first = last + 1;
  }
  return result;
}

Interval bootstrap_interval(size_t n,
                            const std::function<double(std::span<const size_t>)>& statistic,
                            uint64_t seed, int resamples, double level) {
  FACET_CHECK(n >= 1 && resamples >= 1 && level > 0.0 && level < 1.0, "bootstrap",
              "{} resamples of {} samples for a level of {}", resamples, n, level);
  RandomSequence random(random_key(seed, RandomPurpose::bootstrap));
  std::vector<size_t> drawn(n);
  std::vector<double> values;
  for (int i = 0; i < resamples; ++i) {
    for (size_t& index : drawn) index = random.below(n);
    const double value = statistic(drawn);
    if (std::isfinite(value)) values.push_back(value);
  }
  if (2 * values.size() < static_cast<size_t>(resamples))
    return {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::quiet_NaN()};
  std::sort(values.begin(), values.end());
  // Linear between order statistics, as numpy.quantile.
  const auto quantile = [&](double q) {
    const double at = q * static_cast<double>(values.size() - 1);
    const auto below = static_cast<size_t>(at);
    const size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
  };
  return {quantile(0.5 * (1.0 - level)), quantile(0.5 * (1.0 + level))};
}

}  // namespace facet
