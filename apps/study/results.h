// A study's results as one JSON object, from which everything else is made:
//   title, introduction: [paragraph], created, command, machine, seconds, stage_seconds,
//   configuration: {NAME: text},
//   models: [{name, label, start, cycle ("-": none), what measure_network() gives, transfer,
//             transfer_error}],
//   tasks: [{name, classes, train, validation, test}],
//   correlations, importances, answer (study/score.h)
// and, of networks that the study trained itself,
//   injections: [{start, title, models: [{name, cycle, to_start, to_supervised}]}],
//   knn: {k, train, queries, rows: [{features, accuracy, start, untrained}]},
//   starts: [{name, method, first_loss, last_loss, collapse_loss, knn, untrained_knn}],
//   curves: [{title, curves: [{name, points: [[step, loss]], collapse}]}]
#pragma once

#include <filesystem>
#include <vector>

#include "apps/machine.h"
#include "apps/study/measure.h"

namespace facet {

Json describe_tasks(const std::vector<DownstreamTask>& tasks);

// Adds scores (from `seed`), date and machine; writes results.json, report.html and the tables as
// .csv into the folder.
void finish_results(Json& results, const std::filesystem::path& folder, uint64_t seed);

// The table of models, what foretells transfer, what was learned.
void print_results(const Json& results, const std::filesystem::path& folder);

}  // namespace facet
