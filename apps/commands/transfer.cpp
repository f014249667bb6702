// facet transfer: the transferability score of every model in a table of accuracies.
#include "metrics/transfer.h"

#include "apps/command.h"
#include "apps/machine.h"
#include "apps/table.h"
#include "tensor/text.h"

namespace facet {
namespace {

// A size for each dataset: "10000,8041,...", or none.
std::vector<int64_t> test_counts(const std::string& text, size_t datasets) {
  std::vector<int64_t> counts;
  for (const std::string& word : split_list(text)) {
    const int64_t count = to_number<int64_t>(word).value_or(0);
    if (count < 1) throw UsageError("--test-counts: expected numbers above 0, got '{}'", word);
    counts.push_back(count);
  }
  if (!counts.empty() && counts.size() != datasets)
    throw UsageError("--test-counts: expected one for each of the {} datasets, got {}", datasets,
                     counts.size());
  return counts;
}

}  // namespace

void run_transfer(const Arguments& arguments) {
  Options options("transfer",
                  "Transferability of models over datasets: mean log odds of their accuracies, "
                  "minus the mean over the models. The table has a row a model and a column a "
                  "dataset, in percent.");
  std::string file, datasets, counts;
  bool json = false, csv = false;
  options.add("table", file, "A .csv file");
  options.add("--datasets", datasets, "Columns to use: A,B,... (default: all but the first)");
  options.add("--test-counts", counts,
              "Sizes of their test sets, N,N,...: accuracies are kept half a picture from 0 and 1");
  options.flag("--json", json, "Print JSON", Options::kProcess);
  options.flag("--csv", csv, "Print comma-separated values", Options::kProcess);
  if (!options.parse(arguments)) return;
  if (file.empty()) throw UsageError("facet transfer: expected a .csv file");

  const Table table = Table::load(file);
  std::vector<std::string> names = split_list(datasets);
  if (names.empty()) names.assign(table.columns.begin() + 1, table.columns.end());
  if (names.empty()) throw FileError("{}: no column of accuracies", file);
  if (table.rows.size() < 2)
    throw FileError("{}: scores compare models: expected 2 rows or more", file);
  const std::vector<int64_t> sizes = test_counts(counts, names.size());
  std::vector<double> accuracies;
  for (size_t model = 0; model < table.rows.size(); ++model)
    for (const std::string& name : names) {
      const double percent = table.number(model, table.column(name));
      const bool needs_size = sizes.empty() && (percent == 0.0 || percent == 100.0);
      if (percent < 0.0 || percent > 100.0 || needs_size)
        throw FileError(
            "{}: row '{}', column '{}': {}", file, table.rows[model][0], name,
            needs_size ? fmt::format("{}% has infinite log odds: give --test-counts", percent)
                       : fmt::format("expected a percentage, got {} (--datasets chooses columns)",
                                     percent));
      accuracies.push_back(percent / 100.0);
    }
  const auto models = static_cast<int64_t>(table.rows.size());
  const TransferScores scores = transfer_scores(accuracies, models, sizes);

  Table result{{table.columns[0], "transfer", "standard error"}};
  Json list = Json::array();
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const std::string& model = table.rows[i][0];
    result.rows.push_back(
        {model, number_cell(scores.score[i], csv), number_cell(scores.standard_error[i], csv)});
    list.push_back({{"model", model},
                    {"transfer", scores.score[i]},
                    {"standard_error", scores.standard_error[i]}});
  }
  if (json)
    print_json({{"table", file}, {"datasets", names}, {"models", list}});
  else
    fmt::print("{}", csv ? result.csv() : result.text());
}

}  // namespace facet
