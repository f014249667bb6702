// Datasets: labelled images by index. Reading is thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/sample.h"
#include "tensor/tensor.h"

namespace facet {

enum class Split : uint8_t { train, test };
inline const char* name(Split split) {
  return split == Split::train ? "train" : "test";
}

class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual std::string name() const = 0;
  virtual int64_t size() const = 0;
  virtual const std::vector<std::string>& classes() const = 0;
  virtual Image image(int64_t index) const = 0;
  virtual Sample sample(int64_t index) const { return Sample(image(index)); }
  // i64 (size); or f32 0/1 (size, classes) for a multi-label task
  virtual const Tensor& labels() const = 0;
  // Hash (hex) to tell datasets apart in logs and checkpoints: of pixels and labels or, where the
  // pixels lie in files, of the manifest.
  virtual std::string fingerprint() const = 0;
  // One line for logs.
  virtual std::string describe() const { return name(); }
  // A sample in messages.
  virtual std::string where(int64_t index) const {
    return name() + " sample " + std::to_string(index);
  }

  bool multi_label() const { return labels().rank() == 2; }
  int64_t num_classes() const { return static_cast<int64_t>(classes().size()); }
};
using DatasetPtr = std::shared_ptr<const Dataset>;

// Images of one size in memory: u8 (N, H, W, C), C = 1 (shown as three equal channels) or 3.
class ArrayDataset final : public Dataset {
 public:
  ArrayDataset(std::string name, Tensor pixels, Tensor labels, std::vector<std::string> classes);
  std::string name() const override { return name_; }
  int64_t size() const override { return pixels_.dim(0); }
  const std::vector<std::string>& classes() const override { return classes_; }
  Image image(int64_t index) const override;
  const Tensor& labels() const override { return labels_; }
  std::string fingerprint() const override;

 private:
  std::string name_;
  Tensor pixels_, labels_;
  std::vector<std::string> classes_;
};

// Chosen samples of another dataset, in the given order.
class SubsetDataset final : public Dataset {
 public:
  SubsetDataset(DatasetPtr base, std::vector<int64_t> indices);
  std::string name() const override { return base_->name(); }
  int64_t size() const override { return static_cast<int64_t>(indices_.size()); }
  const std::vector<std::string>& classes() const override { return base_->classes(); }
  Image image(int64_t index) const override {
    return base_->image(indices_.at(static_cast<size_t>(index)));
  }
  Sample sample(int64_t index) const override {
    return base_->sample(indices_.at(static_cast<size_t>(index)));
  }
  std::string describe() const override { return base_->describe(); }
  const Tensor& labels() const override { return labels_; }
  std::string fingerprint() const override;

 private:
  DatasetPtr base_;
  std::vector<int64_t> indices_;
  Tensor labels_;
};

// `per_class` samples of every class (the first `per_class * classes` for multi-label tasks) in the
// order of a Philox permutation of `seed`. Throws when a class has fewer.
DatasetPtr balanced_subset(const DatasetPtr& dataset, int64_t per_class, uint64_t seed);

// Opens a dataset by its specification, KIND[:FOLDER][,key=value...] (dataset_help() lists them):
//   fashion-mnist   cub200:FOLDER   food101:FOLDER,split=paper   shapes:train=200,size=28
// Trees are checked: what is missing, miscounted or in both splits is a FileError.
DatasetPtr open_dataset(const std::string& specification, Split split);
// The specification with one more key; unchanged for an empty value.
std::string with_option(const std::string& specification, const std::string& key,
                        const std::string& value);
// One line a kind, for help texts.
std::string dataset_help();

}  // namespace facet
