// What follows from the measurements of several models: transferability, what foretells it, and how
// sure that is.
#pragma once

#include <vector>

#include "apps/machine.h"

namespace facet {

// The measures that may foretell transfer: their keys in a model, and what they are called.
struct Measure {
  const char *key, *title;
};
const std::vector<Measure>& study_measures();

// Reads models[i].probes[TASK] in percent and tasks[j] = {name, test}; adds to every model
// "transfer" and "transfer_error", and to the results
//   correlations: [{measure, title, spearman, pearson, kendall, r2, low, high (95 % of spearman),
//                   gain, gain_low, gain_high (spearman minus that of the accuracy)}]
//   importances:  [{diversity, combined, factors: {TITLE: share}}], with 3 models or more
//   answer:       {measure: "better", "worse" or "undecided" than the accuracy}
// Intervals are percentiles over resampled models. Correlations of what is constant, and of two
// models, say nothing: null.
void add_scores(Json& results, uint64_t seed);

}  // namespace facet
