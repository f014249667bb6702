#include "optim/lbfgs.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/ops.h"

namespace facet {
namespace {

// A point of the line: step length, value, derivative along the direction.
struct Trial {
  double step = 0.0, value = 0.0, slope = 0.0;
};

// Minimiser of the cubic through two points with their slopes (Nocedal & Wright, eq. 3.59), kept
// 10 % away from both ends; bisection where there is none.
double interpolate(const Trial& a, const Trial& b) {
  const double low = std::min(a.step, b.step), width = std::fabs(b.step - a.step);
  const double d1 = a.slope + b.slope - 3.0 * (a.value - b.value) / (a.step - b.step);
  const double square = d1 * d1 - a.slope * b.slope;
  double step = low + 0.5 * width;
  if (square >= 0.0) {
    const double d2 = std::copysign(std::sqrt(square), b.step - a.step);
    const double cubic =
        b.step - (b.step - a.step) * (b.slope + d2 - d1) / (b.slope - a.slope + 2.0 * d2);
    if (std::isfinite(cubic)) step = cubic;
  }
  return std::clamp(step, low + 0.1 * width, low + 0.9 * width);
}

class LineSearch {
 public:
  // noise: relative rounding error of the function's values; decrease below it cannot be seen.
  LineSearch(const std::function<Trial(double)>& at, const Trial& start, double noise, int budget)
      : at_(at), start_(start), slack_(noise * std::fabs(start.value)), budget_(budget) {}

  // The accepted point (the last one evaluated), or step 0 when none was found.
  Trial run(double step) {
    Trial before = start_;
    while (budget_ > 0) {
      const Trial now = evaluate(step);
      if (!decreases(now) || (now.value >= before.value + slack_ && before.step > 0.0))
        return zoom(before, now);
      if (flat(now)) return now;
      if (now.slope >= 0.0) return zoom(now, before);
      // Still descending: go on to where the secant of the slopes reaches zero, 2 to 10 times on.
      const double curvature = (now.slope - before.slope) / (now.step - before.step);
      const double secant = curvature > 0.0 ? now.step - now.slope / curvature : 10.0 * step;
      before = now;
      step = std::clamp(secant, 2.0 * step, 10.0 * step);
    }
    return before.step > 0.0 ? before : Trial{};
  }

 private:
  static constexpr double kDecrease = 1e-4, kCurvature = 0.9;  // c1 and c2 of the Wolfe conditions

  Trial evaluate(double step) {
    --budget_;
    return at_(step);
  }
  bool decreases(const Trial& t) const {
    return t.value <= start_.value + kDecrease * t.step * start_.slope + slack_;
  }
  bool flat(const Trial& t) const { return std::fabs(t.slope) <= -kCurvature * start_.slope; }

  // low: the best point that decreases enough; the interval to high holds an acceptable one.
  Trial zoom(Trial low, Trial high) {
    // Where the interval promises less than the rounding error, values tell nothing.
    while (budget_ > 0 && std::fabs(low.slope * (high.step - low.step)) > slack_) {
      const bool finite = std::isfinite(high.value) && std::isfinite(high.slope);
      const Trial now =
          evaluate(finite ? interpolate(low, high) : low.step + 0.1 * (high.step - low.step));
      if (!decreases(now) || now.value > low.value + slack_) {
        high = now;
        continue;
      }
      if (flat(now)) return now;
      if (now.slope * (high.step - low.step) >= 0.0) high = low;
      low = now;
    }
    // Not flat enough, but lower: take it (evaluated again, to be the last).
    return low.step > 0.0 ? at_(low.step) : Trial{};
  }

  const std::function<Trial(double)>& at_;
  Trial start_;
  double slack_;
  int budget_;
};

// The last `memory` pairs (s, y) and the gradient g as the rows of one matrix, with their Gram
// matrix on the host.
class History {
 public:
  History(const Tensor& x, int memory)
      : memory_(memory),
        rows_(2 * memory + 1),
        basis_(Tensor::zeros({rows_, x.numel()}, x.dtype(), x.device())),
        products_(static_cast<size_t>(rows_) * static_cast<size_t>(rows_), 0.0) {}

  Tensor gradient() const { return basis_.narrow(rows_ - 1, 1).flatten(); }

  // Takes the pair of step * direction and the change of the gradient, and the new gradient.
  void push(double step, const Tensor& direction, const Tensor& gradient) {
    const int slot = next_;
    Tensor s = basis_.narrow(slot, 1).flatten(), y = basis_.narrow(memory_ + slot, 1).flatten();
    Tensor g = this->gradient();
    s.copy_(direction);
    ops::scale_(s, step);
    y.copy_(gradient);
    ops::add_(y, g, -1.0);
    g.copy_(gradient);
    update_products();
    // Without positive curvature the pair would spoil the metric: overwrite it the next time. It
    // takes the place of the oldest.
    const double lengths = dot(slot, slot) * dot(memory_ + slot, memory_ + slot);
    if (dot(slot, memory_ + slot) <= 1e-10 * std::sqrt(lengths)) {
      count_ = std::min(count_, memory_ - 1);
      return;
    }
    next_ = (slot + 1) % memory_;
    count_ = std::min(count_ + 1, memory_);
  }

  void reset(const Tensor& gradient) {
    basis_.zero_();
    this->gradient().copy_(gradient);
    count_ = next_ = 0;
    update_products();
  }

  bool empty() const { return count_ == 0; }

  // -H g as coefficients of the rows; returns its slope (its product with g) through `slope`.
  Tensor direction(double& slope) const {
    const int g = rows_ - 1;
    std::vector<double> c(static_cast<size_t>(rows_), 0.0), alpha(static_cast<size_t>(memory_));
    c[g] = -1.0;
    const auto times = [&](int row) {
      double sum = 0.0;
      for (int j = 0; j < rows_; ++j) sum += c[j] * dot(j, row);
      return sum;
    };
    for (int i = 1; i <= count_; ++i) {
      const int s = (next_ - i + memory_) % memory_, y = memory_ + s;
      alpha[s] = times(s) / dot(s, y);
      c[y] -= alpha[s];
    }
    if (count_ > 0) {
      const int s = (next_ - 1 + memory_) % memory_, y = memory_ + s;
      for (double& v : c) v *= dot(s, y) / dot(y, y);
    }
    for (int i = count_; i >= 1; --i) {
      const int s = (next_ - i + memory_) % memory_, y = memory_ + s;
      c[s] += alpha[s] - times(y) / dot(s, y);
    }
    slope = times(g);
    const Tensor row = Tensor::from(c, {1, rows_}).cast(basis_.dtype()).to(basis_.device());
    return ops::matmul(row, basis_).flatten();
  }

  double gradient_norm() const { return std::sqrt(dot(rows_ - 1, rows_ - 1)); }

 private:
  double dot(int i, int j) const { return products_[static_cast<size_t>(i * rows_ + j)]; }
  // All of them, though few are new: one pass over the basis and one reading back from its device.
  void update_products() {
    products_ = ops::matmul(basis_, basis_, false, true).to_vector<double>();
  }

  int memory_, rows_, count_ = 0, next_ = 0;
  Tensor basis_;                  // (2 memory + 1, n): s..., y..., g
  std::vector<double> products_;  // basis basis^T
};

double max_abs(const Tensor& x) {
  return ops::reduce(ReduceOp::max, ops::abs(x)).item();
}

double dot(const Tensor& a, const Tensor& b) {
  return ops::matmul(a.reshape({1, a.numel()}), b.reshape({b.numel(), 1})).item();
}

}  // namespace

const char* name(LbfgsStop stop) {
  switch (stop) {
    case LbfgsStop::gradient: return "gradient";
    case LbfgsStop::decrease: return "decrease";
    case LbfgsStop::iterations: return "iterations";
    case LbfgsStop::line_search: return "line_search";
  }
  return "?";
}

LbfgsResult minimize_lbfgs(Tensor& x, const LbfgsFunction& function, const LbfgsOptions& options) {
  FACET_CHECK(x.rank() == 1 && x.numel() > 0, "lbfgs", "expected a vector, got {}", x.shape());
  FACET_CHECK(x.dtype() == DType::f32 || x.dtype() == DType::f64, "lbfgs",
              "expected f32 or f64, got {}", name(x.dtype()));
  FACET_CHECK(options.memory >= 1, "lbfgs", "memory {} is not positive", options.memory);
  // Relative rounding error of values whose terms have the type of x.
  const double noise = x.dtype() == DType::f64 ? 1e-15 : 1e-8;
  const double tolerance = options.decrease_tolerance < 0.0
                               ? options.decrease_tolerance
                               : std::max(options.decrease_tolerance, noise);
  const double least_scale = options.gap_tolerance > 0.0 ? 1e-300 : 1.0;

  LbfgsResult result;
  x = x.clone();  // trial points go into its memory
  Tensor gradient = Tensor::empty_like(x);
  result.value = function(x, gradient);
  result.evaluations = 1;
  if (!std::isfinite(result.value))
    throw NonFiniteError(fmt::format("[lbfgs] the function is {} at the start", result.value));
  result.gradient_max = max_abs(gradient);
  History history(x, options.memory);
  history.reset(gradient);

  const auto stopped = [&](LbfgsStop why) {
    result.stop = why;
    return result;
  };
  Tensor trial = Tensor::empty_like(x);
  while (true) {
    const double gap = 0.5 * history.gradient_norm() * history.gradient_norm();
    if (result.gradient_max <= options.gradient_tolerance &&
        (options.gap_tolerance <= 0.0 || gap <= options.gap_tolerance * std::fabs(result.value)))
      return stopped(LbfgsStop::gradient);
    if (result.iterations >= options.max_iterations) return stopped(LbfgsStop::iterations);
    Trial start{0.0, result.value, 0.0};
    const Tensor direction = history.direction(start.slope);
    // A full step is expected to gain half the slope; less than the tolerance is lost in rounding.
    const double least = tolerance * std::max(std::fabs(result.value), least_scale);
    if (!history.empty() && start.slope < 0.0 && -0.5 * start.slope <= least)
      return stopped(LbfgsStop::decrease);
    const std::function<Trial(double)> at = [&](double step) {
      trial.copy_(x);
      ops::add_(trial, direction, step);
      const double value = function(trial, gradient);
      ++result.evaluations;
      return Trial{step, value, dot(gradient, direction)};
    };
    const double first = history.empty() ? std::min(1.0, 1.0 / history.gradient_norm()) : 1.0;
    Trial end;
    if (start.slope < 0.0) end = LineSearch(at, start, noise, options.max_line_search).run(first);
    if (end.step <= 0.0) {
      const bool lost = -start.slope * first <= 100.0 * noise * std::fabs(start.value);
      if (history.empty() || lost)
        return stopped(lost ? LbfgsStop::decrease : LbfgsStop::line_search);
      gradient.copy_(history.gradient());  // once more from here by steepest descent
      history.reset(gradient);
      continue;
    }
    std::swap(x, trial);
    history.push(end.step, direction, gradient);
    ++result.iterations;
    const double scale = std::max({std::fabs(result.value), std::fabs(end.value), least_scale});
    const double decrease = (result.value - end.value) / scale;
    result.value = end.value;
    result.gradient_max = max_abs(gradient);
    if (decrease <= tolerance && result.gradient_max > options.gradient_tolerance)
      return stopped(LbfgsStop::decrease);
  }
}

}  // namespace facet
