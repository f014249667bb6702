#include "apps/study/results.h"

#include "apps/log.h"
#include "apps/report/report.h"
#include "apps/study/score.h"
#include "tensor/file.h"

namespace facet {

Json describe_tasks(const std::vector<DownstreamTask>& tasks) {
  Json list = Json::array();
  for (const DownstreamTask& task : tasks)
    list.push_back({{"name", task.name},
                    {"classes", task.train->num_classes()},
                    {"train", task.train->size() - task.validation},
                    {"validation", task.validation},
                    {"test", task.test->size()}});
  return list;
}

void finish_results(Json& results, const std::filesystem::path& folder, uint64_t seed) {
  add_scores(results, seed);
  double total = 0;
  Json times = Json::object();
  for (const auto& [name, seconds] : results["stage_seconds"].items()) {
    total += seconds.get<double>();
    times[name] = format_seconds(seconds);
  }
  results["seconds"] = total;
  results["stage_seconds"] = times;
  results["created"] = utc_now();
  results["machine"] = machine_description();
  write_file(folder / "results.json", results.dump(1) + "\n");
  for (const auto& [file, table] : result_tables(results)) write_file(folder / file, table.csv());
  write_file(folder / "report.html", render_report(results));
}

void print_results(const Json& results, const std::filesystem::path& folder) {
  Table models{{"model", "accuracy", "D_C", "D_S", "CIS_C", "CIS_S", "CKA", "MSC", "kNN"}};
  for (const Json& task : results["tasks"]) models.columns.push_back(task["name"]);
  models.columns.insert(models.columns.end(), {"transfer", "+-"});
  for (const Json& model : results["models"]) {
    models.rows.push_back({model["name"]});
    const auto add = [&](const Json& value, int digits, const char* unit = "") {
      models.rows.back().push_back(
          value.is_number() ? fmt::format("{:.{}f}{}", value.get<double>(), digits, unit) : "-");
    };
    add(model["accuracy"], 2, "%");
    add(model["clustering_diversity"], 4);
    add(model["spectral_diversity"], 4);
    for (const char* key : {"clustering_cis", "spectral_cis"}) add(model[key], 2);
    add(model["cka"], 1);
    add(model["silhouette"], 3);
    add(model["knn"], 2);
    for (const Json& task : results["tasks"])
      add(model["probes"][task["name"].get<std::string>()], 2);
    for (const char* key : {"transfer", "transfer_error"}) add(model[key], 3);
  }
  fmt::print("{}\n", models.text());

  Table told{{"rank correlation with transfer", "spearman", "95% interval", "gain over accuracy",
              "95% interval"}};
  for (const Json& row : results["correlations"]) {
    const auto value = [&](const char* key) {
      return number_cell(number(part(row, key)), false, 2);
    };
    const auto interval = [&](const char* low, const char* high) {
      return value(low) == "-" ? "-" : fmt::format("{} to {}", value(low), value(high));
    };
    told.rows.push_back({row["title"], value("spearman"), interval("low", "high"), value("gain"),
                         interval("gain_low", "gain_high")});
  }
  fmt::print("{}", told.text());

  if (results.contains("starts")) {
    Table starts{{"pretraining", "first loss", "last", "collapse value", "kNN", "untrained kNN"}};
    for (const Json& start : results["starts"]) {
      starts.rows.push_back({start["name"]});
      for (const char* key : {"first_loss", "last_loss", "collapse_loss"})
        starts.rows.back().push_back(fmt::format("{:.3f}", start[key].get<double>()));
      for (const char* key : {"knn", "untrained_knn"})
        starts.rows.back().push_back(fmt::format("{:.2f}%", start[key].get<double>()));
    }
    fmt::print("\n{}kNN accuracy of raw pixels {:.2f}%\n", starts.text(),
               results["knn"]["rows"][0]["accuracy"].get<double>());
  }
  fmt::print("report: {}\n", (folder / "report.html").string());
}

}  // namespace facet
