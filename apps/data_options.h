// How a dataset is read, and what a network remembers of it.
#pragma once

#include <string>

#include "apps/options.h"
#include "data/loader.h"
#include "tensor/serialize.h"

namespace facet {

struct ReadingOptions {
  std::string split = "default", cache = "none", on_bad_sample = "fail";

  void add_to(Options& options);
  // A dataset's specification with what --split says: what a trained network remembers.
  std::string specification(const std::string& data) const;
  DatasetPtr open(const std::string& data, Split part) const;
  OnBadSample policy() const;
};

// How many samples may be bad before a run stops: 0.1 %, but at least ten.
inline int64_t max_bad_samples(int64_t samples) {
  return std::max<int64_t>(10, samples / 1000);
}

// The classes of a dataset in the metadata of a network whose classifier knows them.
void remember_classes(const Dataset& dataset, Metadata& metadata);
// A FileError where a network remembers other classes than the dataset has, or in another order.
void require_same_classes(const Metadata& metadata, const std::string& network,
                          const Dataset& dataset);

}  // namespace facet
