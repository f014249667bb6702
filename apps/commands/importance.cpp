// facet importance: which factor of a table tells most of its target.
#include "metrics/importance.h"

#include "apps/command.h"
#include "apps/machine.h"
#include "apps/table.h"
#include "metrics/correlation.h"
#include "tensor/text.h"

namespace facet {

void run_importance(const Arguments& arguments) {
  Options options("importance",
                  "What the factors of a table tell of its target: gain in an XGBoost regression, "
                  "and correlations. A row a model.");
  std::string file, target, factors;
  ImportanceOptions settings;
  bool json = false, csv = false;
  options.add("table", file, "A .csv file");
  options.add("--target", target, "The column to be told");
  options.add("--factors", factors, "Columns that tell: A,B,... (default: all others)");
  between(options.add("--trees", settings.trees, "Trees of the regression"), 1, 100000);
  between(options.add("--depth", settings.depth, "Depth of a tree"), 1, 100000);
  options.flag("--json", json, "Print JSON", Options::kProcess);
  options.flag("--csv", csv, "Print comma-separated values", Options::kProcess);
  if (!options.parse(arguments)) return;
  if (file.empty() || target.empty())
    throw UsageError("facet importance: expected a .csv file and --target COLUMN");

  const Table table = Table::load(file);
  const std::vector<double> y = table.numbers(target);
  if (y.size() < 2) throw FileError("{}: expected 2 rows or more", file);
  std::vector<std::string> names = split_list(factors);
  if (names.empty())
    for (size_t i = 1; i < table.columns.size(); ++i)
      if (table.columns[i] != target) names.push_back(table.columns[i]);
  if (names.empty()) throw FileError("{}: no column besides '{}'", file, target);
  std::vector<std::vector<double>> columns;
  for (const std::string& name : names) columns.push_back(table.numbers(name));
  std::vector<double> x;
  for (size_t row = 0; row < y.size(); ++row)
    for (const auto& column : columns) x.push_back(column[row]);
  const std::vector<double> importance = factor_importance(x, y, settings);

  Table result{{"factor", "importance", "spearman", "pearson", "kendall", "r2"}};
  Json list = Json::array();
  for (size_t i = 0; i < names.size(); ++i) {
    Json row = {{"factor", names[i]}};
    std::vector<std::string> cells = {names[i]};
    const std::vector<double>& c = columns[i];
    for (const auto& [key, value] : {std::pair{"importance", importance[i]},
                                     {"spearman", spearman(c, y)},
                                     {"pearson", pearson(c, y)},
                                     {"kendall", kendall(c, y)},
                                     {"r2", r_squared(c, y)}}) {
      row[key] = value;  // written as null where a constant column has none
      cells.push_back(number_cell(value, csv));
    }
    list.push_back(row);
    result.rows.push_back(cells);
  }
  if (json)
    print_json({{"table", file}, {"target", target}, {"factors", list}});
  else
    fmt::print("{}", csv ? result.csv() : result.text());
}

}  // namespace facet
