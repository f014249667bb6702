// What a frozen network is worth: features of whole datasets, and what nearest neighbours, a linear
// probe or its own classifier make of them.
#pragma once

#include <string>

#include "apps/model.h"
#include "data/dataset.h"
#include "data/pipeline.h"

namespace facet {

struct Features {
  Tensor x;         // (N, D)
  Tensor labels;    // i64 (N), or f32 0/1 (N, classes), on the same device
  int64_t bad = 0;  // samples beside those that could not be decoded

  // An accuracy of the N in which every bad sample counts as wrong.
  double with_bad(double percent) const {
    const auto good = static_cast<double>(x.dim(0));
    return percent * good / (good + static_cast<double>(bad));
  }
};

// In eval mode, whole pictures at the network's image size, without augmentation. On the
// network's device.
// `omit`: samples that cannot be decoded are left out and counted, with a warning each.
Features extract_features(Encoder& encoder, const DatasetPtr& dataset, const Pipeline& pipeline,
                          int64_t workers, bool omit = false);
// Of a network as it was shown pictures (evaluation_pipeline()).
Features extract_features(const TrainedNetwork& network, const DatasetPtr& dataset,
                          int64_t workers);
// The pictures themselves, as rows of normalised pixels.
Features raw_pixels(const DatasetPtr& dataset, const Pipeline& pipeline, Device device = {},
                    bool omit = false);

// Accuracies in percent. Of scores (N, classes): top-1, or mean average precision for multi-label
// tasks.
double percent_right(const Tensor& scores, const Tensor& labels);
double knn_accuracy(const Features& train, const Features& test, int64_t classes, int64_t k);
// Of the network's own classifier; a FileError where it knows other classes than the dataset.
double head_accuracy(const TrainedNetwork& network, const Features& test, const Dataset& dataset);

struct ProbeScore {
  double percent = 0.0;  // percent_right()
  double c = 0.0;        // the regularisation that validation chose
};
// The last `validation` of the training samples choose C; then all of them are fitted.
ProbeScore probe_accuracy(const Features& train, const Features& test, int64_t classes,
                          int64_t validation);

struct SimilarityOptions {
  int64_t batch_size = 600, epochs = 1;  // the paper's: batches of 600, three times all pictures
  bool blocks = false;                   // after every block instead of every stage
  int64_t workers = 1;
  uint64_t seed = 0;  // of the order of the pictures
};
// Minibatch CKA between the stages of a network and of another one (null: its own), which may see
// pictures of another size, f64 (stages, stages). Batches of fewer than 4 pictures are left out.
Tensor stage_similarity(TrainedNetwork& first, TrainedNetwork* second, const DatasetPtr& dataset,
                        const SimilarityOptions& options = {});
double mean_of(const Tensor& matrix);
Json rows_of(const Tensor& matrix);

// The statistics a dataset is normalised with: its own where they are known, else ImageNet's (in
// SwAV with its authors' .228 for the deviation of red).
Normalization normalization_for(const std::string& dataset, const std::string& method = "");
bool is_grey(const std::string& dataset);
// How evaluation shows pictures. `crop`: "squash" (auto up to 64 pixels), whole; "center", the
// shorter side to size / .875 and the centre. `interpolation`: auto is the method's official
// code's.
Pipeline test_view(int64_t size, const Normalization& n, const std::string& method,
                   const std::string& crop = "auto", const std::string& interpolation = "auto");
// The same for a network, whose metadata say its image size, data and method.
Pipeline evaluation_pipeline(const TrainedNetwork& network, const std::string& crop = "auto",
                             const std::string& interpolation = "auto");

}  // namespace facet
