#include "data/dataset.h"

#include <algorithm>
#include <numeric>

#include "tensor/hash.h"
#include "tensor/ops.h"

namespace facet {

ArrayDataset::ArrayDataset(std::string name, Tensor pixels, Tensor labels,
                           std::vector<std::string> classes)
    : name_(std::move(name)),
      pixels_(std::move(pixels)),
      labels_(std::move(labels)),
      classes_(std::move(classes)) {
  FACET_CHECK(pixels_.dtype() == DType::u8 && pixels_.rank() == 4 &&
                  (pixels_.dim(3) == 1 || pixels_.dim(3) == 3),
              "dataset", "expected u8 pixels (N, H, W, 1 or 3), got {}", pixels_.str());
  FACET_CHECK(labels_.dim(0) == pixels_.dim(0), "dataset", "{}: {} images but {} labels", name_,
              pixels_.dim(0), labels_.dim(0));
}

Image ArrayDataset::image(int64_t index) const {
  FACET_CHECK(index >= 0 && index < size(), "dataset", "{}: no sample {} among {}", name_, index,
              size());
  Image image(static_cast<int>(pixels_.dim(1)), static_cast<int>(pixels_.dim(2)));
  const int64_t channels = pixels_.dim(3), area = pixels_.dim(1) * pixels_.dim(2);
  const uint8_t* from = pixels_.data<uint8_t>() + index * area * channels;
  if (channels == 3)
    std::copy_n(from, area * 3, image.pixels.data());
  else
    for (int64_t i = 0; i < area; ++i)
      std::fill_n(&image.pixels[static_cast<size_t>(3 * i)], 3, from[i]);
  return image;
}

std::string ArrayDataset::fingerprint() const {
  const auto bytes = [](const Tensor& t) {
    return std::string_view(static_cast<const char*>(t.raw()), t.bytes());
  };
  return fmt::format("{:016x}", fnv1a(bytes(labels_), fnv1a(bytes(pixels_))));
}

SubsetDataset::SubsetDataset(DatasetPtr base, std::vector<int64_t> indices)
    : base_(std::move(base)), indices_(std::move(indices)) {
  labels_ = ops::gather_rows(base_->labels(),
                             Tensor::from(indices_, {static_cast<int64_t>(indices_.size())}));
}

std::string SubsetDataset::fingerprint() const {
  return fmt::format(
      "{}:{:016x}", base_->fingerprint(),
      fnv1a({reinterpret_cast<const char*>(indices_.data()), indices_.size() * sizeof(int64_t)}));
}

DatasetPtr balanced_subset(const DatasetPtr& dataset, int64_t per_class, uint64_t seed) {
  std::vector<int64_t> order(static_cast<size_t>(dataset->size())), chosen;
  std::iota(order.begin(), order.end(), int64_t{0});
  RandomSequence(random_key(seed, RandomPurpose::split)).shuffle(order);
  if (dataset->multi_label()) {
    const int64_t n = per_class * dataset->num_classes();
    FACET_CHECK(n <= dataset->size(), "subset", "{}: expected at least {} samples, got {}",
                dataset->name(), n, dataset->size());
    chosen.assign(order.begin(), order.begin() + n);
  } else {
    const int64_t* label = dataset->labels().data<int64_t>();
    std::vector<int64_t> count(static_cast<size_t>(dataset->num_classes()), 0);
    for (const int64_t i : order)
      if (count[static_cast<size_t>(label[i])]++ < per_class) chosen.push_back(i);
    for (size_t c = 0; c < count.size(); ++c)
      FACET_CHECK(count[c] >= per_class, "subset",
                  "{}: class '{}' has {} samples, {} were asked for", dataset->name(),
                  dataset->classes()[c], count[c], per_class);
  }
  return std::make_shared<SubsetDataset>(dataset, std::move(chosen));
}

}  // namespace facet
