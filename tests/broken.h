// A dataset that does something of the test's own before it gives a picture.
#pragma once

#include <functional>

#include "data/dataset.h"

namespace facet::test {

class BrokenDataset final : public Dataset {
 public:
  explicit BrokenDataset(DatasetPtr base) : base_(std::move(base)) {}
  std::string name() const override { return base_->name(); }
  int64_t size() const override { return base_->size(); }
  const std::vector<std::string>& classes() const override { return base_->classes(); }
  const Tensor& labels() const override { return base_->labels(); }
  std::string fingerprint() const override { return base_->fingerprint(); }
  Image image(int64_t index) const override {
    before(index);
    return base_->image(index);
  }
  std::function<void(int64_t)> before;

 private:
  DatasetPtr base_;
};

}  // namespace facet::test
