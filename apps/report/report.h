// The report of `facet reproduce`: one HTML file that needs nothing else, made from results.json
// alone.
#pragma once

#include <string>

#include "apps/machine.h"

namespace facet {

// `results` is what commands/reproduce.cpp writes as results.json.
std::string render_report(const Json& results);
// The table of models as comma-separated values.
std::string render_csv(const Json& results);

}  // namespace facet
