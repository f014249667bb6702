// results.json as tables: what is printed, shown in the report and written beside it.
#include <fmt/format.h>

#include "apps/report/report.h"
#include "apps/study/score.h"

namespace facet {
namespace {

std::string cell(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  return value.is_number() ? value.dump() : "";
}

// A row for each object, a column for each key.
Table from_objects(const Json& rows, const std::vector<std::string>& keys) {
  Table table{keys};
  for (const Json& row : rows) {
    table.rows.emplace_back();
    for (const std::string& key : keys) table.rows.back().push_back(cell(part(row, key)));
  }
  return table;
}

Table models(const Json& results) {
  std::vector<std::string> keys = {"name", "start", "cycle"};
  for (const Measure& measure : study_measures()) keys.emplace_back(measure.key);
  for (const Json& task : results["tasks"]) keys.push_back(task["name"]);
  keys.insert(keys.end(), {"transfer", "transfer_error"});
  Json rows = results["models"];
  for (Json& row : rows) row.update(Json(row["probes"]));  // the tasks' names are no measures'
  Table table = from_objects(rows, keys);
  table.columns[0] = "model";
  return table;
}

Table layers(const Json& results) {
  Table table{{"model", "layer", "n", "d", "D_C", "D_S"}};
  for (const Json& model : results["models"]) {
    if (table.columns.size() == 6)
      for (const Json& tau : part(model, "tau"))
        table.columns.push_back(fmt::format("C {:g}", number(tau)));
    for (const Json& layer : part(model, "layers")) {
      table.rows.push_back({model["name"]});
      for (const char* key : {"name", "n", "d", "D_C", "D_S"})
        table.rows.back().push_back(cell(layer[key]));
      for (const Json& share : layer["C_tau"]) table.rows.back().push_back(cell(share));
    }
  }
  return table;
}

Table similarities(const Json& results) {
  Table table{{"model", "stage", "other stage", "cka"}};
  for (const Json& model : results["models"]) {
    const Json& matrix = part(model, "cka_matrix");
    for (size_t i = 0; i < matrix.size(); ++i)
      for (size_t j = 0; j < matrix[i].size(); ++j)
        table.rows.push_back(
            {model["name"], std::to_string(i + 1), std::to_string(j + 1), cell(matrix[i][j])});
  }
  return table;
}

Table importances(const Json& results) {
  Table table{{"diversity", "combined", "factor", "importance"}};
  for (const Json& row : part(results, "importances"))
    for (const auto& [factor, share] : row["factors"].items())
      table.rows.push_back({row["diversity"], cell(row["combined"]), factor, cell(share)});
  return table;
}

Table losses(const Json& results) {
  Table table{{"run", "model", "step", "loss"}};
  for (const Json& group : part(results, "curves"))
    for (const Json& curve : group["curves"])
      for (const Json& point : curve["points"])
        table.rows.push_back({group["title"], curve["name"], cell(point[0]), cell(point[1])});
  return table;
}

}  // namespace

std::vector<NamedTable> result_tables(const Json& results) {
  Json injected = Json::array();
  for (const Json& group : part(results, "injections"))
    for (Json row : group["models"]) {
      row["start"] = group["start"];
      injected.push_back(row);
    }
  std::vector<NamedTable> tables = {
      {"results.csv", models(results)},
      {"correlations.csv", from_objects(part(results, "correlations"),
                                        {"title", "spearman", "low", "high", "pearson", "kendall",
                                         "r2", "gain", "gain_low", "gain_high"})},
      {"importances.csv", importances(results)},
      {"layers.csv", layers(results)},
      {"stages.csv", similarities(results)},
      {"similarity.csv",
       from_objects(injected, {"name", "start", "cycle", "to_start", "to_supervised"})},
      {"tasks.csv",
       from_objects(results["tasks"], {"name", "classes", "train", "validation", "test"})},
      {"neighbours.csv",
       from_objects(part(part(results, "knn"), "rows"), {"features", "accuracy", "untrained"})},
      {"losses.csv", losses(results)}};
  std::erase_if(tables, [](const NamedTable& t) { return t.table.rows.empty(); });
  return tables;
}

}  // namespace facet
