#include "metrics/importance.h"

#include <xgboost/c_api.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>

#include "tensor/check.h"

namespace facet {
namespace {

void xgboost(int status) {
  FACET_CHECK(status == 0, "importance", "XGBoost: {}", XGBGetLastError());
}

template <int (*release)(void*)>
struct Release {
  void operator()(void* handle) const { release(handle); }
};
using Matrix = std::unique_ptr<void, Release<XGDMatrixFree>>;
using Booster = std::unique_ptr<void, Release<XGBoosterFree>>;

std::vector<float> narrowed(std::span<const double> values) {
  std::vector<float> floats;
  for (const double v : values) {
    FACET_CHECK(std::isfinite(v), "importance", "expected finite numbers, got {}", v);
    floats.push_back(static_cast<float>(v));
  }
  return floats;
}

}  // namespace

std::vector<double> factor_importance(std::span<const double> factors,
                                      std::span<const double> target,
                                      const ImportanceOptions& options) {
  const size_t n = target.size();
  FACET_CHECK(n >= 2 && !factors.empty() && factors.size() % n == 0, "importance",
              "{} factors of {} targets are no table of 2 rows or more", factors.size(), n);
  const size_t k = factors.size() / n;
  const std::vector<float> x = narrowed(factors), y = narrowed(target);

  void* handle = nullptr;
  xgboost(XGDMatrixCreateFromMat(x.data(), n, k, std::numeric_limits<float>::quiet_NaN(), &handle));
  const Matrix data(handle);
  xgboost(XGDMatrixSetFloatInfo(data.get(), "label", y.data(), n));
  void* matrices[] = {handle};
  xgboost(XGBoosterCreate(matrices, 1, &handle));
  const Booster booster(handle);
  const std::string depth = std::to_string(options.depth);
  for (const auto& [key, value] : {std::pair{"objective", "reg:squarederror"},
                                   {"max_depth", depth.c_str()},
                                   {"nthread", "1"},
                                   {"verbosity", "0"}})
    xgboost(XGBoosterSetParam(booster.get(), key, value));
  for (int64_t i = 0; i < options.trees; ++i)
    xgboost(XGBoosterUpdateOneIter(booster.get(), static_cast<int>(i), data.get()));

  bst_ulong names = 0, axes = 0;
  const char** name = nullptr;
  const bst_ulong* shape = nullptr;
  const float* gain = nullptr;
  xgboost(XGBoosterFeatureScore(booster.get(), R"({"importance_type": "gain"})", &names, &name,
                                &axes, &shape, &gain));
  std::vector<double> importance(k, 0.0);  // factors that are used are named "f0", "f1" ...
  double sum = 0.0;
  for (bst_ulong i = 0; i < names; ++i) {
    importance.at(std::stoul(name[i] + 1)) = gain[i];
    sum += gain[i];
  }
  FACET_CHECK(sum > 0.0, "importance", "no factor tells anything of the target: is it constant?");
  for (double& value : importance) value /= sum;
  return importance;
}

}  // namespace facet
