// What of a target is told by which factor, by gradient boosted trees (paper, appendix F).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace facet {

struct ImportanceOptions {
  int64_t trees = 100, depth = 6;  // XGBoost's defaults for its scikit-learn interface
};

// factors (n, k) row-major, target (n), n >= 2: the mean gain of the splits that use a factor in an
// XGBoost regression of the target, scaled to the sum 1. A factor that no split uses, such as a
// constant one, has 0. The trees do not depend on the number of threads.
std::vector<double> factor_importance(std::span<const double> factors,
                                      std::span<const double> target,
                                      const ImportanceOptions& options = {});

}  // namespace facet
