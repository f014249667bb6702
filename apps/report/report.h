// The report of a study: one HTML file that needs nothing else, made from results.json alone.
#pragma once

#include <string>
#include <vector>

#include "apps/machine.h"
#include "apps/table.h"

namespace facet {

// `results` as in study/results.h.
std::string render_report(const Json& results);

// Every number of the report as tables, with the names of their files; the first is of the models.
struct NamedTable {
  std::string file;  // "results.csv"
  Table table;
};
std::vector<NamedTable> result_tables(const Json& results);

}  // namespace facet
