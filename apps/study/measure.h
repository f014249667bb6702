// Everything a study measures of one network, as JSON.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "apps/evaluate.h"
#include "apps/machine.h"

namespace facet {

// What models were pretrained on, with one label a picture.
struct Upstream {
  DatasetPtr train, test;
  int64_t neighbours = 20;
};

struct DownstreamTask {
  std::string name;
  DatasetPtr train, test;
  int64_t validation;  // training pictures, the last, that choose C
};
// A fifth to a quarter of the training pictures: as the study's own tasks.
DownstreamTask open_task(const std::string& name, const std::string& specification);

// {accuracy, accuracy_by, clustering_diversity, spectral_diversity, clustering_cis, spectral_cis,
//  layers: [{name, n, d, D_C, D_S, C_tau}], tau, knn, intra, inter, silhouette, cka, cka_matrix,
//  probes: {TASK: percent}, probe_c: {TASK: C}}
Json measure_network(TrainedNetwork& network, const Upstream& upstream,
                     const std::vector<DownstreamTask>& tasks, int64_t workers);
// The same of a network whose backbone is that of a network measured already: only the classifier
// is another one.
Json measure_classifier(TrainedNetwork& network, const Json& backbone, const Upstream& upstream,
                        int64_t workers);

// 100 x the mean CKA of all pairs of stages of two networks (Figure 6).
double mean_similarity(TrainedNetwork& first, TrainedNetwork& second, const Upstream& upstream,
                       int64_t workers);

// Runs `make` unless folder/measured/NAME.json is there; returns what the file holds, with the
// seconds that it took.
Json measured_once(const std::filesystem::path& folder, const std::string& name,
                   const std::function<Json()>& make);

}  // namespace facet
