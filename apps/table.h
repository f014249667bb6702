// Tables of cells: read from comma-separated files with mistakes named by row and column, printed
// as comma-separated values or aligned text.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace facet {

struct Table {
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows = {};  // the first cell names the row
  std::string file = {};                            // in error messages

  // The headings in the first line, then rows of as many cells, none named twice. A cell with a
  // comma or quotes is in quotes (RFC 4180); lines end as in Unix or Windows.
  static Table load(const std::filesystem::path& path);

  // A FileError that names what is missing or no number.
  size_t column(const std::string& heading) const;
  size_t row(const std::string& name) const;
  double number(size_t row, size_t column) const;
  double number(const std::string& name, const std::string& heading) const {
    return number(row(name), column(heading));
  }
  std::vector<double> numbers(const std::string& heading) const;

  std::string csv() const;
  std::string text() const;  // aligned: names to the left, all else to the right
};

// A cell: `exact` (for CSV) as it is read back, else with so many digits. Of what is not finite "",
// or "-" for a reader.
std::string number_cell(double value, bool exact, int digits = 4);
// A field of comma-separated values, quoted where it has to be.
std::string csv_field(const std::string& text);

}  // namespace facet
