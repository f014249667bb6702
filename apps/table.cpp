#include "apps/table.h"

#include <algorithm>
#include <charconv>
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
  if (quoted) throw FileError(fmt::format("{}: a quote is never closed", file));
  finish();
  return lines;
}

size_t width(const std::string& text) {  // characters of UTF-8
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

Table Table::load(const std::filesystem::path& path) {
  Table table;
  table.file = path.string();
  std::vector<size_t> line;
  std::vector<std::vector<std::string>> lines = parse(read_file(path), table.file, line);
  if (lines.size() < 2)
    throw FileError(fmt::format("{}: expected a line of headings and rows below it", table.file));
  table.columns = lines[0];
  std::set<std::string> seen;
  for (const std::string& heading : table.columns)
    if (!seen.insert(heading).second)
      throw FileError(fmt::format("{}: two columns are called '{}'", table.file, heading));
  seen.clear();
  for (size_t i = 1; i < lines.size(); ++i) {
    if (lines[i].size() != table.columns.size())
      throw FileError(fmt::format("{}:{}: expected {} cells as in the headings, got {}", table.file,
                                  line[i], table.columns.size(), lines[i].size()));
    if (!seen.insert(lines[i][0]).second)
      throw FileError(fmt::format("{}:{}: a second row '{}'", table.file, line[i], lines[i][0]));
    table.rows.push_back(std::move(lines[i]));
  }
  return table;
}

size_t Table::column(const std::string& heading) const {
  const auto found = std::find(columns.begin(), columns.end(), heading);
  if (found == columns.end())
    throw FileError(
        fmt::format("{}: no column '{}'{}", file, heading, did_you_mean(heading, columns)));
  return static_cast<size_t>(found - columns.begin());
}

size_t Table::row(const std::string& name) const {
  const auto found =
      std::find_if(rows.begin(), rows.end(), [&](const auto& cells) { return cells[0] == name; });
  if (found == rows.end()) throw FileError(fmt::format("{}: no row '{}'", file, name));
  return static_cast<size_t>(found - rows.begin());
}

double Table::number(size_t row, size_t column) const {
  const std::string& cell = rows.at(row).at(column);
  double value = NAN;
  const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
  if (error != std::errc() || end != cell.data() + cell.size() || !std::isfinite(value))
    throw FileError(fmt::format("{}: row '{}', column '{}': expected a number, got {}", file,
                                rows[row][0], columns[column],
                                cell.empty() ? "an empty cell" : fmt::format("'{}'", cell)));
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
    widths.push_back(width(columns[i]));
    for (const auto& cells : rows) widths[i] = std::max(widths[i], width(cells[i]));
  }
  std::string result;
  const auto add = [&](const std::vector<std::string>& cells) {
    for (size_t i = 0; i < cells.size(); ++i) {
      const size_t space = widths[i] - width(cells[i]);
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

std::string csv_field(const std::string& text) {
  if (text.find_first_of("\",\n") == std::string::npos) return text;
  std::string quoted(1, '"');
  for (const char c : text) quoted.append(c == '"' ? 2 : 1, c);
  quoted += '"';
  return quoted;
}

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> words;
  for (size_t at = 0; at <= text.size() && !text.empty();) {
    const size_t end = std::min(text.find(',', at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

}  // namespace facet
