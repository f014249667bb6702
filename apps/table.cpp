#include "apps/table.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "tensor/check.h"
#include "tensor/file.h"
#include "tensor/text.h"

namespace facet {
namespace {

// The lines of a file as cells; empty lines are left out, `numbers` says which lines are there.
std::vector<std::vector<std::string>> parse(const std::string& text, const std::string& file,
                                            std::vector<size_t>& numbers) {
  std::vector<std::vector<std::string>> lines;
  std::vector<std::string> cells(1);
  size_t line = 1;
  bool quoted = false;
  const auto finish = [&] {
    if (cells.size() > 1 || !cells[0].empty()) {
      lines.push_back(cells);
      numbers.push_back(line);
    }
    cells.assign(1, "");
  };
  for (size_t i = text.starts_with("\xEF\xBB\xBF") ? 3 : 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c != '"')
        cells.back() += c;
      else if (i + 1 < text.size() && text[i + 1] == '"')
        cells.back() += text[++i];
      else
        quoted = false;
    } else if (c == '"' && cells.back().empty()) {
      quoted = true;
    } else if (c == ',') {
      cells.emplace_back();
    } else if (c == '\n') {
      finish();
      ++line;
    } else if (c != '\r') {
      cells.back() += c;
    }
  }
  if (quoted) throw FileError("{}: a quote is never closed", file);
  finish();
  return lines;
}

}  // namespace

Table Table::load(const std::filesystem::path& path) {
  Table table;
  table.file = path.string();
  std::vector<size_t> line;
  std::vector<std::vector<std::string>> lines = parse(read_file(path), table.file, line);
  if (lines.size() < 2)
    throw FileError("{}: expected a line of headings and rows below it", table.file);
  table.columns = lines[0];
  std::set<std::string> seen;
  for (const std::string& heading : table.columns)
    if (!seen.insert(heading).second)
      throw FileError("{}: two columns are called '{}'", table.file, heading);
  seen.clear();
  for (size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].size() != table.columns.size())
      throw FileError("{}:{}: expected {} cells as in the headings, got {}", table.file, line[i],
                      table.columns.size(), lines[i].size());
    if (!seen.insert(lines[i][0]).second)
      throw FileError("{}:{}: a second row '{}'", table.file, line[i], lines[i][0]);
    table.rows.push_back(std::move(lines[i]));
  }
  return table;
}

size_t Table::column(const std::string& heading) const {
  const auto found = std::find(columns.begin(), columns.end(), heading);
  if (found == columns.end())
    throw FileError("{}: no column '{}'{}", file, heading, did_you_mean(heading, columns));
  return static_cast<size_t>(found - columns.begin());
}

size_t Table::row(const std::string& name) const {
  const auto found = std::ranges::find_if(rows, [&](const auto& c) { return c[0] == name; });
  if (found == rows.end()) throw FileError("{}: no row '{}'", file, name);
  return static_cast<size_t>(found - rows.begin());
}

double Table::number(size_t row, size_t column) const {
  const std::string& cell = rows.at(row).at(column);
  const double value = to_number<double>(cell).value_or(NAN);
  if (!std::isfinite(value))
    throw FileError("{}: row '{}', column '{}': expected a number, got {}", file, rows[row][0],
                    columns[column], cell.empty() ? "an empty cell" : fmt::format("'{}'", cell));
  return value;
}

std::vector<double> Table::numbers(const std::string& heading) const {
  const size_t at = column(heading);
  std::vector<double> values;
  for (size_t i = 0; i < rows.size(); ++i) values.push_back(number(i, at));
  return values;
}

std::string Table::csv() const {
  std::string text;
  const auto add = [&](const std::vector<std::string>& cells) {
    for (size_t i = 0; i < cells.size(); ++i) text.append(i ? "," : "").append(csv_field(cells[i]));
    text += '\n';
  };
  add(columns);
  for (const auto& cells : rows) add(cells);
  return text;
}

std::string Table::text() const {
  std::vector<size_t> widths;
  for (size_t i = 0; i < columns.size(); ++i) {
    widths.push_back(characters(columns[i]));
    for (const auto& cells : rows) widths[i] = std::max(widths[i], characters(cells[i]));
  }
  std::string result;
  const auto add = [&](const std::vector<std::string>& cells) {
    for (size_t i = 0; i < cells.size(); ++i) {
      const size_t space = widths[i] - characters(cells[i]);
      if (i > 0)
        result.append(space + 2, ' ').append(cells[i]);
      else
        result.append(cells[i]).append(cells.size() > 1 ? space : 0, ' ');
    }
    result += '\n';
  };
  add(columns);
  for (const auto& cells : rows) add(cells);
  return result;
}

std::string number_cell(double value, bool exact, int digits) {
  if (!std::isfinite(value)) return exact ? "" : "-";
  return exact ? fmt::format("{}", value) : fmt::format("{:.{}f}", value, digits);
}

std::string csv_field(const std::string& text) {
  if (text.find_first_of("\",\n") == std::string::npos) return text;
  std::string quoted(1, '"');
  for (const char c : text) quoted.append(c == '"' ? 2 : 1, c);
  quoted += '"';
  return quoted;
}

}  // namespace facet
