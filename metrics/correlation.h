// Correlations of two series, as in SciPy: pearsonr, spearmanr and kendalltau (tau-b). NaN where a
// series is constant.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace facet {

double pearson(std::span<const double> x, std::span<const double> y);
double spearman(std::span<const double> x, std::span<const double> y);
double kendall(std::span<const double> x, std::span<const double> y);
// Share of variance that a straight line explains: pearson squared.
double r_squared(std::span<const double> x, std::span<const double> y);

// Ranks from 1; equal values share their mean rank.
std::vector<double> ranks(std::span<const double> x);

struct Interval {
  double low, high;
};

// Percentile bootstrap (Efron 1979): `statistic` is given the indices of n samples drawn from n
// with replacement, `resamples` times; the interval holds the middle `level` of its finite values.
// NaN where fewer than half of them are finite.
Interval bootstrap_interval(size_t n,
                            const std::function<double(std::span<const size_t>)>& statistic,
                            uint64_t seed = 0, int resamples = 2000, double level = 0.95);

}  // namespace facet
