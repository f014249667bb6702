// The paper's own tables (apps/paper), from which its Transfer columns, correlations and
// importances follow, and where they contradict each other.
#pragma once

#include "apps/machine.h"

namespace facet {

// {transfer: {"7": {scale, offset, rows: [{model, printed, recomputed, standard_error}]}, ...},
//  correlations: [{protocol, score, spearman, pearson, kendall, r2, printed: {...}}],
//  importances: [{protocol, diversity, combined, factors: {NAME: share}}],
//  inconsistencies: [{table, row, column, printed, why}]}
Json reproduce_paper();

}  // namespace facet
