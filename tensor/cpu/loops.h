// The loops that the CPU kernels are made of. Work is cut into blocks whose edges do not depend on
// the number of threads, so that neither do the results, to the last bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "tensor/parallel.h"
#include "tensor/tensor.h"

// glibc's vector math library (4 ulp) for the elementary functions inside of simd loops. glibc
// itself declares these for -ffast-math only, which facet does not use: it would drop NaNs.
#if defined(__x86_64__) && defined(__GLIBC__) && __GLIBC_PREREQ(2, 35) && defined(__GNUC__) && \
    !defined(__clang__)
extern "C" {
#define FACET_VECTOR_MATH(function)                                          \
  __attribute__((__simd__("notinbranch"))) double function(double) noexcept; \
  __attribute__((__simd__("notinbranch"))) float function##f(float) noexcept;
FACET_VECTOR_MATH(exp)
FACET_VECTOR_MATH(log)
FACET_VECTOR_MATH(tanh)
FACET_VECTOR_MATH(erf)
#undef FACET_VECTOR_MATH
}
#endif

namespace facet::cpu {

constexpr int64_t kBlock = 4096;        // elements of a block
constexpr int64_t kGrain = 8 * kBlock;  // elements; below that one thread is quicker

// The value of an element in its arithmetic type.
template <typename T>
acc_t<T> widen(T value) {
  return static_cast<acc_t<T>>(value);
}

// body(begin, end) over [0, n), cut at multiples of kBlock.
template <typename Body>
void for_each_block(int64_t n, const Body& body) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  parallel_for(blocks, kGrain / kBlock, [&](int64_t first, int64_t last) {
    body(first * kBlock, std::min(last * kBlock, n));
  });
}

// body(first, last) over rows of `cols` elements each.
template <typename Body>
void for_each_row(int64_t rows, int64_t cols, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(cols, 1));
  parallel_for(rows, grain, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) body(row);
  });
}
// body(T{}, row, cols) for every row of a floating tensor, T the type of its elements.
template <typename Body>
void for_each_row(const Tensor& x, const char* op, const Body& body) {
  dispatch_floating(x.dtype(), op, [&](auto tag) {
    const int64_t cols = x.cols();
    for_each_row(x.rows(), cols, [&](int64_t row) { body(tag, row, cols); });
  });
}

// The elements of many tensors as one list of blocks: body(block, tensor, begin, end).
class TensorBlocks {
 public:
  explicit TensorBlocks(std::span<const Tensor> tensors) {
    first_.push_back(0);
    for (const Tensor& t : tensors) {
      numel_.push_back(t.numel());
      first_.push_back(first_.back() + (t.numel() + kBlock - 1) / kBlock);
    }
  }

  int64_t size() const { return first_.back(); }
  // The blocks of tensor t are [first(t), first(t + 1)).
  int64_t first(size_t t) const { return first_[t]; }

  template <typename Body>
  void for_each(const Body& body) const {
    parallel_for(size(), kGrain / kBlock, [&](int64_t from, int64_t to) {
      size_t t = 0;
      for (int64_t block = from; block < to; ++block) {
        while (block >= first_[t + 1]) ++t;
        const int64_t begin = (block - first_[t]) * kBlock;
        body(block, t, begin, std::min(begin + kBlock, numel_[t]));
      }
    });
  }

 private:
  std::vector<int64_t> first_;
  std::vector<int64_t> numel_;
};

// Sum of term(i) for i in [begin, end): 32 sums side by side over leaves of 2048 terms, combined
// pairwise (Higham 1993), so that the error of an f32 sum hardly grows with its length.
template <typename Acc, typename Term>
Acc sum_terms(int64_t begin, int64_t end, const Term& term) {
  constexpr int64_t kLeaf = 2048;
  const int64_t leaves = (end - begin + kLeaf - 1) / kLeaf;
  if (leaves > 1) {
    const int64_t middle = begin + (leaves + 1) / 2 * kLeaf;
    return sum_terms<Acc>(begin, middle, term) + sum_terms<Acc>(middle, end, term);
  }
  constexpr int kLanes = 32;
  Acc lanes[kLanes] = {};
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes)
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  for (int lane = 0; i < end; ++i, ++lane) lanes[lane] += term(i);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

// The largest of term(i); NaNs are passed over. -infinity of nothing.
template <typename Acc, typename Term>
Acc max_term(int64_t n, const Term& term) {
  Acc largest = -std::numeric_limits<Acc>::infinity();
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    const Acc value = term(i);
    largest = value > largest ? value : largest;
  }
  return largest;
}

}  // namespace facet::cpu
