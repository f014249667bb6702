#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "tensor/check.h"

namespace facet {

// Extents of a tensor, outermost first; at most kMaxRank axes, held inline. Rank 0 is a scalar.
class Shape {
 public:
  static constexpr int kMaxRank = 5;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const int64_t> dims) {
    FACET_CHECK(dims.size() <= kMaxRank, "Shape", "expected at most {} axes, got {}", kMaxRank,
                dims.size());
    for (int64_t d : dims) push_back(d);
  }

  int rank() const { return rank_; }
  // Negative axes count from the end: dim(-1) is the innermost extent.
  int64_t dim(int axis) const {
    const int a = axis < 0 ? axis + rank_ : axis;
    FACET_CHECK(a >= 0 && a < rank_, "Shape", "axis {} of {}", axis, str());
    return dims_[a];
  }
  int64_t operator[](int axis) const { return dims_[axis]; }
  void set(int axis, int64_t extent) { dims_[axis] = extent; }
  void push_back(int64_t extent) {
    FACET_CHECK(rank_ < kMaxRank, "Shape", "more than {} axes", kMaxRank);
    FACET_CHECK(extent >= 0, "Shape", "negative extent {}", extent);
    dims_[rank_++] = extent;
  }

  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  // Most kernels see a tensor as rows() x cols(): all axes but the last, and the last.
  int64_t cols() const { return rank_ == 0 ? 1 : dims_[rank_ - 1]; }
  int64_t rows() const {
    int64_t n = 1;
    for (int i = 0; i + 1 < rank_; ++i) n *= dims_[i];
    return n;
  }

  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + rank_; }

  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if (dims_[i] != other.dims_[i]) return false;
    return true;
  }

  std::string str() const {
    std::string s = "(";
    for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(dims_[i]);
    return s + ")";
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

}  // namespace facet

template <>
struct fmt::formatter<facet::Shape> : fmt::formatter<std::string> {
  auto format(const facet::Shape& shape, format_context& context) const {
    return fmt::formatter<std::string>::format(shape.str(), context);
  }
};
