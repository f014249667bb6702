#include "apps/data_options.h"

#include <algorithm>

#include "data/listing.h"
#include "tensor/hash.h"

namespace facet {
namespace {

constexpr const char* kClasses = "facet.classes";
constexpr const char* kClassesHash = "facet.classes_sha256";

// One name a line. Names have no line ends: they come from lists or are names of folders.
std::string class_list(const Dataset& dataset) {
  return fmt::format("{}", fmt::join(dataset.classes(), "\n"));
}

}  // namespace

void ReadingOptions::add_to(Options& options) {
  options.choice("--split", split, {"default", "official", "paper", "trainval"},
                 "Which parts train and test; default: official, where there is one");
  options.add("--cache", cache, "Pictures that facet dataset cache put into this folder, or none");
  options.choice("--on-bad-sample", on_bad_sample, {"fail", "skip", "substitute"},
                 "A picture that cannot be decoded: an error, another one, or one of its class; in "
                 "evaluation (but for fail) it counts as wrong");
}

std::string ReadingOptions::specification(const std::string& data) const {
  return with_option(data, "split", split == "default" ? "" : split);
}

DatasetPtr ReadingOptions::open(const std::string& data, Split part) const {
  return open_dataset(with_option(specification(data), "cache", cache == "none" ? "" : cache),
                      part);
}

OnBadSample ReadingOptions::policy() const {
  return on_bad_sample == "skip"         ? OnBadSample::skip
         : on_bad_sample == "substitute" ? OnBadSample::substitute
                                         : OnBadSample::fail;
}

void remember_classes(const Dataset& dataset, Metadata& metadata) {
  metadata[kClasses] = class_list(dataset);
  metadata[kClassesHash] = sha256(class_list(dataset));
}

void require_same_classes(const Metadata& metadata, const std::string& network,
                          const Dataset& dataset) {
  const std::string hash = value_of(metadata, kClassesHash);
  if (hash.empty() || hash == sha256(class_list(dataset))) return;
  const std::vector<std::string> known = parse_lines(value_of(metadata, kClasses), network);
  const auto first =
      static_cast<size_t>(std::ranges::mismatch(known, dataset.classes()).in1 - known.begin());
  const auto at = [&](const std::vector<std::string>& names) {
    return first < names.size() ? "'" + names[first] + "'" : std::string("none");
  };
  throw FileError("{} knows {} classes, {} has {}: class {} is {} there and {} here", network,
                  known.size(), dataset.name(), dataset.num_classes(), first, at(known),
                  at(dataset.classes()));
}

}  // namespace facet
