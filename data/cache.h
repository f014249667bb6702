// A cache of a dataset's pictures, decoded and made smaller: one file per split, mapped into
// memory, so that views cost no decoding.
//
// train.pictures, test.pictures (little-endian):
//   16 bytes   "facet pictures 1"
//   pictures   height x width x 3 bytes each, without gaps, in the dataset's order; of one that
//   could
//              not be decoded the error, with height 0 and its length as width
//   index      {u64 offset, u32 height, u32 width, u32 CRC-32 of the pixels, u32 0} a picture
//   trailer    64 + 64 bytes: SHA-256 of the index, in hex; the dataset's fingerprint, filled up
//              with zeros; u64 offset of the index, u64 pictures; u32 CRC-32 of the trailer's other
//              bytes, u32 shorter side
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>

#include "data/dataset.h"
#include "data/mapped_file.h"

namespace facet {

// The dataset with the pictures of a cache in place of its own: labels, classes and fingerprint are
// the dataset's. A FileError where the cache is damaged or was made of something else. A picture's
// checksum is checked when it is first read.
class CachedDataset final : public Dataset {
 public:
  CachedDataset(DatasetPtr base, const std::filesystem::path& file);
  std::string name() const override { return base_->name(); }
  int64_t size() const override { return base_->size(); }
  const std::vector<std::string>& classes() const override { return base_->classes(); }
  const Tensor& labels() const override { return base_->labels(); }
  std::string fingerprint() const override { return base_->fingerprint(); }
  std::string describe() const override;
  std::string where(int64_t index) const override { return base_->where(index); }
  Image image(int64_t index) const override { return sample(index).decode(); }
  Sample sample(int64_t index) const override;

 private:
  DatasetPtr base_;
  std::filesystem::path path_;
  MappedFile file_;
  size_t index_ = 0;
  uint32_t shorter_ = 0;
  mutable std::vector<std::atomic<bool>> checked_;
};

std::filesystem::path cache_file(const std::filesystem::path& folder, Split split);
// Writes all pictures with the shorter side `shorter` (smaller ones as they are; bilinear), made on
// all cores. `progress` is told how many are done, now and then. A picture that cannot be decoded
// is an error here or, where `bad` is given, told to it and an error when it is read from the
// cache.
void write_cache(const Dataset& dataset, int shorter, const std::filesystem::path& file,
                 const std::function<void(int64_t)>& progress,
                 const std::function<void(const std::string& error)>& bad = nullptr);

}  // namespace facet
