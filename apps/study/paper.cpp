// facet reproduce paper: the paper's own tables.
#include <algorithm>
#include <cmath>

#include "apps/command.h"
#include "apps/machine.h"
#include "apps/table.h"
#include "metrics/correlation.h"
#include "metrics/importance.h"
#include "metrics/transfer.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

Table paper_table(const std::string& file) {
  const fs::path beside = fs::read_symlink("/proc/self/exe").parent_path() / "paper";
  const fs::path folder = fs::is_directory(beside) ? beside : fs::path(FACET_PAPER);
  return Table::load(folder / (file + ".csv"));
}

// "SwAV (T=4)" is method SwAV with cycle 4; a method without labels has cycle 0.
struct Name {
  std::string method;
  int cycle = 0;
  explicit Name(const std::string& text) : method(text.substr(0, text.find(" (T="))) {
    if (const size_t at = text.find("(T="); at != std::string::npos)
      cycle = std::stoi(text.substr(at + 3));
  }
};

class Paper {
 public:
  Paper() {
    for (const char* file :
         {"table1_correlations", "table2_datasets", "table3_linear_cnn", "table4_finetune_cnn_coco",
          "table5_finetune_vit", "table6_factors_cnn", "table7_finetune_cnn", "table8_finetune_vit",
          "table9_linear_cnn"})
      tables_.push_back(paper_table(file));
  }

  // {transfer: {"7": {scale, offset, rows: [{model, printed, recomputed, standard_error}]}, ...},
  //  correlations: [{protocol, score, spearman, pearson, kendall, r2, printed: {...}}],
  //  importances: [{protocol, diversity, combined, factors: {NAME: share}}],
  //  inconsistencies: [{table, row, column, printed, why}]}
  Json results() {
    Json transfer = Json::object();
    for (const auto& [number, scale] : {std::pair{7, 1.0}, {8, 1.0}, {9, 100.0}})
      transfer[std::to_string(number)] = transfer_column(number, scale);
    check_same_cells();
    check_accuracies();
    check_separation();
    check_sizes();
    const Json found = correlations(), shares = importances();
    return {{"transfer", transfer},
            {"correlations", found},
            {"importances", shares},
            {"inconsistencies", inconsistencies_}};
  }

 private:
  const Table& table(int number) const { return tables_[static_cast<size_t>(number - 1)]; }

  void report(const std::string& where, const std::string& row, const std::string& column,
              const std::string& printed, const std::string& why) {
    inconsistencies_.push_back(
        {{"table", where}, {"row", row}, {"column", column}, {"printed", printed}, {"why", why}});
  }
  static std::string name_of(int number) { return fmt::format("Table {}", number); }

  static std::vector<std::string> datasets(const Table& t) {
    std::vector<std::string> names;
    for (const std::string& column : t.columns)
      if (column != "Pretrain" && column != "ImNet" && column != "Transfer" && column != "COCO")
        names.push_back(column);
    return names;
  }

  // Scores are relative to the models they were computed with, so a printed column may lie a
  // constant from ours. What differs by more than that and the rounding of all cells is no
  // rounding error.
  Json transfer_column(int number, double scale) {
    const Table& t = table(number);
    const std::vector<std::string> names = datasets(t);
    const auto count = static_cast<double>(names.size());
    std::vector<double> accuracies;
    std::vector<double> rounding(t.rows.size(), 0.0);  // bound of its effect on a score
    for (size_t m = 0; m < t.rows.size(); ++m)
      for (const std::string& name : names) {
        const double p = t.number(m, t.column(name)) / 100.0;
        accuracies.push_back(p);
        rounding[m] += 0.0005 / (p * (1.0 - p)) / count;
      }
    const TransferScores ours = transfer_scores(accuracies, static_cast<int64_t>(t.rows.size()));
    const std::vector<double> printed = t.numbers("Transfer");
    std::vector<double> difference;
    for (size_t m = 0; m < printed.size(); ++m)
      difference.push_back(printed[m] / scale - ours.score[m]);
    std::vector<double> sorted = difference;
    std::sort(sorted.begin(), sorted.end());
    const double offset = sorted[sorted.size() / 2];
    constexpr double kDigit = 0.0005;  // half of the last one printed, in both scales
    Json rows = Json::array();
    for (size_t m = 0; m < printed.size(); ++m) {
      rows.push_back({{"model", t.rows[m][0]},
                      {"printed", printed[m]},
                      {"recomputed", scale * ours.score[m]},
                      {"standard_error", scale * ours.standard_error[m]}});
      const double rest = difference[m] - offset;
      if (std::abs(rest) <= rounding[m] + kDigit) continue;
      report(name_of(number), t.rows[m][0], "Transfer", fmt::format("{}", printed[m]),
             fmt::format("its cells give {:.{}f}{}", scale * (ours.score[m] + offset),
                         scale > 1.0 ? 1 : 3, suspect(number, m, count * rest)));
    }
    return {{"scale", scale}, {"offset", scale * offset}, {"rows", rows}};
  }

  // The one cell that would explain a score: changed by `log_odds` it comes nearer to the mean of
  // the cycles before and after than it is, and no other by more.
  std::string suspect(int number, size_t row, double log_odds) const {
    const Table& t = table(number);
    const auto is_neighbour = [&](size_t other) {
      const Name name(t.rows[row][0]), beside(t.rows[other][0]);
      return beside.cycle > 0 && beside.method == name.method;
    };
    if (row == 0 || row + 1 == t.rows.size() || !is_neighbour(row - 1) || !is_neighbour(row + 1))
      return "";
    double best = 0.0;
    std::string text;
    for (const std::string& dataset : datasets(t)) {
      const size_t column = t.column(dataset);
      const double percent = t.number(row, column);
      const double wanted =
          100.0 / (1.0 + std::exp(-accuracy_logit(percent / 100.0, 0) - log_odds));
      const double expected = (t.number(row - 1, column) + t.number(row + 1, column)) / 2.0;
      const double nearer = std::abs(percent - expected) - std::abs(wanted - expected);
      if (nearer <= best) continue;
      best = nearer;
      text = fmt::format("; {} of {:.1f} instead of {} would explain it", dataset, wanted,
                         t.rows[row][column]);
    }
    return text;
  }

  // Tables 3, 4 and 5 are excerpts of 9, 7 and 8.
  void check_same_cells() {
    for (const auto& [excerpt, full] : {std::pair{3, 9}, {4, 7}, {5, 8}}) {
      const Table &a = table(excerpt), &b = table(full);
      for (const auto& cells : a.rows)
        for (const std::string& dataset : datasets(a)) {
          const double x = a.number(cells[0], dataset), y = b.number(cells[0], dataset);
          if (x != y)
            report(name_of(excerpt), cells[0], dataset, fmt::format("{}", x),
                   fmt::format("Table {} prints {}{}", full, y,
                               excerpt == 5 && table(4).number(cells[0], dataset) == x
                                   ? "; this is the ResNet's, of Table 4"
                                   : ""));
        }
    }
  }

  // A model has one accuracy upstream, whatever the table; and the more often the backbone is
  // updated, the higher it is.
  void check_accuracies() {
    const Table& factors = table(6);
    for (const auto& cells : factors.rows) {
      std::string others;
      const double accuracy = factors.number(cells[0], "ImNet");
      for (const int number : {3, 4, 7, 9}) {
        const Table& t = table(number);
        for (const auto& row : t.rows)
          if (row[0] == cells[0] && std::abs(t.number(row[0], "ImNet") - accuracy) > 0.101)
            others += fmt::format("{}{} in Table {}", others.empty() ? "" : ", ",
                                  row[t.column("ImNet")], number);
      }
      if (!others.empty())
        report("Table 6", cells[0], "ImNet", fmt::format("{}", accuracy), "printed as " + others);
    }
    for (const int number : {7, 8, 9}) {
      const Table& t = table(number);
      const std::vector<double> accuracy = t.numbers("ImNet");
      for (size_t m = 1; m < accuracy.size(); ++m) {
        const Name before(t.rows[m - 1][0]), name(t.rows[m][0]);
        if (before.cycle > 0 && name.cycle > 0 && before.method == name.method &&
            accuracy[m] > accuracy[m - 1] + 0.101)
          report(name_of(number), t.rows[m][0], "ImNet", fmt::format("{}", accuracy[m]),
                 fmt::format("above the {} of {}, whose backbone learns more often",
                             accuracy[m - 1], t.rows[m - 1][0]));
      }
    }
  }

  // By equations 4 and 5, Inter - Intra is a mean of squares.
  void check_separation() {
    const Table& t = table(6);
    const std::vector<double> inter = t.numbers("Inter"), intra = t.numbers("Intra");
    for (size_t m = 0; m < inter.size(); ++m)
      if (inter[m] < intra[m])
        report("Table 6", t.rows[m][0], "Inter", fmt::format("{}", inter[m]),
               fmt::format("below Intra, {}, which equations 4 and 5 exclude", intra[m]));
  }

  void check_sizes() {
    const Table& t = table(2);
    for (const auto& cells : t.rows)
      for (const auto& [split, column] :
           {std::pair{"Train", "Official train"}, {"Test", "Official test"}}) {
        const std::string& printed = cells[t.column(split)];
        const std::string& official = cells[t.column(column)];
        if (!official.empty() && printed != official)
          report("Table 2", cells[0], split, printed,
                 fmt::format("the official split has {}", official));
      }
  }

  // Columns of Table 6 in the order of another table's models.
  std::vector<double> factor(const std::string& name, const Table& order) const {
    std::vector<double> values;
    for (const auto& cells : order.rows) values.push_back(table(6).number(cells[0], name));
    return values;
  }

  Json correlations() {
    Json list = Json::array();
    const Table& printed = table(1);
    for (const auto& [protocol, number] : {std::pair{"linear", 9}, {"finetune", 7}}) {
      const std::vector<double> y = table(number).numbers("Transfer");
      for (const auto& cells : printed.rows) {
        const std::vector<double> x = factor(cells[0], table(number));
        Json row = {{"protocol", protocol}, {"score", cells[0]}}, given = Json::object();
        for (const auto& [key, column, value] : {std::tuple{"spearman", "rho", spearman(x, y)},
                                                 {"pearson", "r", pearson(x, y)},
                                                 {"kendall", "tau", kendall(x, y)},
                                                 {"r2", "R2", r_squared(x, y)}}) {
          row[key] = value;
          given[key] = printed.number(cells[0], fmt::format("{} {}", protocol, column));
        }
        row["printed"] = given;
        const double r = given["pearson"], square = given["r2"];
        if (std::abs(r * r - square) > 0.015)
          report("Table 1", cells[0], fmt::format("{} R2", protocol), fmt::format("{}", square),
                 fmt::format("the square of r = {} is {:.2f}", r, r * r));
        list.push_back(row);
      }
    }
    return list;
  }

  // Figures 8 and 14, and the factors that appendix F names.
  Json importances() const {
    Json list = Json::array();
    for (const auto& [protocol, number] : {std::pair{"finetune", 7}, {"linear", 9}})
      for (const char* kind : {"clustering", "spectral"})
        for (const bool combined : {true, false}) {
          const Table& t = table(number);
          const std::string cis = fmt::format("CIS_{}", kind);
          std::vector<std::string> names = {"CKA", "MSC", "Intra", "Inter"};
          std::vector<std::vector<double>> columns;
          for (const std::string& name : names) columns.push_back(factor(name, t));
          std::vector<double> score = factor(cis, t);
          if (combined) {
            names.insert(names.begin(), "CIS");
            columns.insert(columns.begin(), score);
          } else {
            const std::vector<double> accuracy = factor("ImNet", t);
            for (size_t i = 0; i < score.size(); ++i) score[i] /= accuracy[i];
            names.insert(names.begin(), {"ImNet", "diversity"});
            columns.insert(columns.begin(), {accuracy, score});
          }
          std::vector<double> x;
          for (size_t row = 0; row < t.rows.size(); ++row)
            for (const auto& column : columns) x.push_back(column[row]);
          const std::vector<double> share = factor_importance(x, t.numbers("Transfer"));
          Json shares = Json::object();
          for (size_t i = 0; i < names.size(); ++i) shares[names[i]] = share[i];
          list.push_back({{"protocol", protocol},
                          {"diversity", kind},
                          {"combined", combined},
                          {"factors", shares}});
        }
    return list;
  }

  std::vector<Table> tables_;
  Json inconsistencies_ = Json::array();
};

// "Table 7: Transfer" and so on, for a reader.
void print_paper(const Json& paper) {
  for (const auto& [number, column] : paper["transfer"].items()) {
    Table table{{fmt::format("Table {}, Transfer", number), "printed", "recomputed", "+-"}};
    const int digits = column["scale"].get<double>() > 1 ? 1 : 3;
    for (const Json& row : column["rows"]) {
      table.rows.push_back({row["model"]});
      for (const char* key : {"printed", "recomputed", "standard_error"})
        table.rows.back().push_back(fmt::format("{:.{}f}", row[key].get<double>(), digits));
    }
    fmt::print(
        "{}(printed minus recomputed: {:.3f} for most, from models that are not in the table)\n\n",
        table.text(), column["offset"].get<double>());
  }
  Table table{{"Table 1", "score", "rho", "r", "tau", "R2", "printed: rho", "r", "tau", "R2"}};
  for (const Json& row : paper["correlations"]) {
    table.rows.push_back({row["protocol"], row["score"]});
    for (const Json* from : {&row, &row["printed"]})
      for (const char* key : {"spearman", "pearson", "kendall", "r2"})
        table.rows.back().push_back(fmt::format("{:.2f}", (*from)[key].get<double>()));
  }
  fmt::print("{}\nImportance for transfer (Figures 8 and 14)\n", table.text());
  for (const Json& row : paper["importances"]) {
    std::string line = fmt::format("{:<9} {:<11}", row["protocol"].get<std::string>(),
                                   row["diversity"].get<std::string>());
    for (const auto& [factor, share] : row["factors"].items())
      line += fmt::format("  {} {:.3f}", factor, share.get<double>());
    fmt::print("{}\n", line);
  }
  fmt::print("\n{} cells contradict others:\n", paper["inconsistencies"].size());
  for (const Json& cell : paper["inconsistencies"])
    fmt::print("{}, {}, {}: {}; {}\n", cell["table"].get<std::string>(),
               cell["row"].get<std::string>(), cell["column"].get<std::string>(),
               cell["printed"].get<std::string>(), cell["why"].get<std::string>());
}

}  // namespace

void run_paper(const Arguments& arguments) {
  Options options("reproduce paper",
                  "Recomputes the paper's Transfer columns, correlations and importances from its "
                  "printed tables, and lists the cells that contradict each other.");
  bool json = false;
  options.flag("--json", json, "Print JSON", Options::kProcess);
  if (!options.parse(arguments)) return;
  const Json paper = Paper().results();
  if (json)
    print_json(paper);
  else
    print_paper(paper);
}

}  // namespace facet
