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

// The paper's figures with a study's own numbers, as HTML of plots; empty where a study has not
// what they show.
using Svgs = std::vector<std::string>;

Svgs figure_1(const Json& results);   // transfer against both scores, and against accuracy
Svgs figure_3(const Json& results);   // diversity against accuracy, circles as large as transfer
Svgs figure_4(const Json& results);   // the diversities of the ways of pretraining
Svgs figure_6(const Json& results);   // control cycle: similarity; diversity, accuracy and score
Svgs figure_7(const Json& results);   // control cycle: diversity, score, transfer of every start
Svgs figure_8(const Json& results);   // importances
Svgs figure_9(const Json& results);   // share of clusters by threshold, and its area, by layer
Svgs figure_11(const Json& results);  // CKA between the stages of every model
Svgs loss_curves(const Json& results);
Svgs neighbour_bars(const Json& results);

// A member of a JSON object; null where it is missing.
const Json& part(const Json& object, const std::string& key);
double number(const Json& value);  // NaN where it is none

}  // namespace facet
