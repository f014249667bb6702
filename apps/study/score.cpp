#include "apps/study/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/report/report.h"
#include "metrics/correlation.h"
#include "metrics/importance.h"
#include "metrics/transfer.h"

namespace facet {
namespace {

Json finite(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

std::vector<double> column(const Json& models, const std::string& key) {
  std::vector<double> values;
  for (const Json& model : models) values.push_back(number(model[key]));
  return values;
}

double spearman_of(std::span<const double> x, std::span<const double> y,
                   std::span<const size_t> rows) {
  std::vector<double> a, b;
  for (const size_t i : rows) a.push_back(x[i]), b.push_back(y[i]);
  return spearman(a, b);
}

void add_transfer(Json& results) {
  Json& models = results["models"];
  std::vector<double> accuracies;
  std::vector<int64_t> samples;
  for (const Json& task : results["tasks"]) samples.push_back(task["test"]);
  for (const Json& model : models)
    for (const Json& task : results["tasks"])
      accuracies.push_back(model["probes"][task["name"].get<std::string>()].get<double>() / 100.0);
  const TransferScores scores =
      transfer_scores(accuracies, static_cast<int64_t>(models.size()), samples);
  for (size_t i = 0; i < models.size(); ++i) {
    models[i]["transfer"] = scores.score[i];
    models[i]["transfer_error"] = scores.standard_error[i];
  }
}

Json importances(const Json& models, const std::vector<double>& transfer) {
  Json list = Json::array();
  const auto [low, high] = std::minmax_element(transfer.begin(), transfer.end());
  if (models.size() < 3 || *low == *high) return list;
  for (const char* kind : {"clustering", "spectral"})
    for (const bool combined : {true, false}) {
      std::vector<std::pair<std::string, std::string>> factors;
      if (combined)
        factors = {{"CIS", fmt::format("{}_cis", kind)}};
      else
        factors = {{"accuracy", "accuracy"}, {"diversity", fmt::format("{}_diversity", kind)}};
      for (const auto& [title, key] : {std::pair{"CKA", "cka"},
                                       {"silhouette", "silhouette"},
                                       {"intra", "intra"},
                                       {"inter", "inter"}})
        factors.emplace_back(title, key);
      std::erase_if(factors, [&](const auto& factor) {
        return std::ranges::any_of(models,
                                   [&](const Json& m) { return !m[factor.second].is_number(); });
      });
      std::vector<double> x;
      for (const Json& model : models)
        for (const auto& factor : factors) x.push_back(model[factor.second]);
      const std::vector<double> share = factor_importance(x, transfer);
      Json shares = Json::object();
      for (size_t i = 0; i < factors.size(); ++i) shares[factors[i].first] = share[i];
      list.push_back({{"diversity", kind}, {"combined", combined}, {"factors", shares}});
    }
  return list;
}

}  // namespace

const std::vector<Measure>& study_measures() {
  static const std::vector<Measure> measures = {
      {"accuracy", "accuracy"},
      {"clustering_cis", "accuracy × clustering diversity (CIS)"},
      {"spectral_cis", "accuracy × spectral diversity (CIS)"},
      {"clustering_diversity", "clustering diversity"},
      {"spectral_diversity", "spectral diversity"},
      {"knn", "nearest neighbours upstream"},
      {"cka", "CKA between stages"},
      {"intra", "intra-class variation"},
      {"inter", "inter-class separation"},
      {"silhouette", "silhouette"}};
  return measures;
}

void add_scores(Json& results, uint64_t seed) {
  add_transfer(results);
  const Json models = results["models"];  // no reference: new members move those that are there
  const std::vector<double> transfer = column(models, "transfer");
  const std::vector<double> accuracy = column(models, "accuracy");
  Json correlations = Json::array(), answer = Json::object();
  for (const auto& [key, title] : study_measures()) {
    const std::vector<double> x = column(models, key);
    const bool known =
        models.size() > 2 && std::ranges::none_of(x, [](double v) { return std::isnan(v); });
    const auto value =
        [&](double (*correlation)(std::span<const double>, std::span<const double>)) {
          return known ? finite(correlation(x, transfer)) : Json(nullptr);
        };
    Json row = {{"measure", key},
                {"title", title},
                {"spearman", value(spearman)},
                {"pearson", value(pearson)},
                {"kendall", value(kendall)},
                {"r2", value(r_squared)}};
    Interval own{NAN, NAN}, gain{NAN, NAN};
    if (known) {
      own = bootstrap_interval(
          x.size(), [&](std::span<const size_t> rows) { return spearman_of(x, transfer, rows); },
          seed);
      gain = bootstrap_interval(
          x.size(),
          [&](std::span<const size_t> rows) {
            return spearman_of(x, transfer, rows) - spearman_of(accuracy, transfer, rows);
          },
          seed);
    }
    row["low"] = finite(own.low);
    row["high"] = finite(own.high);
    if (key != std::string("accuracy")) {
      row["gain"] =
          known ? finite(spearman(x, transfer) - spearman(accuracy, transfer)) : Json(nullptr);
      row["gain_low"] = finite(gain.low);
      row["gain_high"] = finite(gain.high);
      if (std::string(key).ends_with("_cis"))
        answer[key] = gain.low > 0.0 ? "better" : gain.high < 0.0 ? "worse" : "undecided";
    }
    correlations.push_back(row);
  }
  results["correlations"] = correlations;
  results["answer"] = answer;
  results["importances"] = importances(models, transfer);
}

}  // namespace facet
