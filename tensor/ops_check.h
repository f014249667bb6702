// What ops check about their arguments; every message begins with the op's name.
#pragma once

#include "tensor/check.h"
#include "tensor/tensor.h"

namespace facet::ops {

inline void check_floating(const Tensor& x, const char* op) {
  FACET_CHECK(x.defined(), op, "got an undefined tensor");
  FACET_CHECK(is_floating(x.dtype()), op, "expected a floating tensor, got {}", x.str());
}

// No promotion: precision is visible in the code that calls.
inline void check_same_kind(const Tensor& a, const Tensor& b, const char* op) {
  check_floating(a, op);
  FACET_CHECK(b.defined(), op, "got an undefined tensor");
  FACET_CHECK(a.dtype() == b.dtype(), op, "expected one type, got {} and {}; cast one of them",
              name(a.dtype()), name(b.dtype()));
  FACET_CHECK(a.device() == b.device(), op, "expected one device, got {} and {}", a.device().str(),
              b.device().str());
}

inline void check_vector(const Tensor& v, int64_t n, DType dtype, const char* what,
                         const char* op) {
  FACET_CHECK(v.defined() && v.shape() == Shape({n}) && v.dtype() == dtype, op,
              "expected {} as {} ({}), got {}", what, name(dtype), n, v.str());
}

inline void check_shape(const Tensor& x, const Shape& shape, const char* what, const char* op) {
  FACET_CHECK(x.shape() == shape, op, "expected {} of {}, got {}", what, shape, x.shape());
}

// ... of x's type and device.
inline void check_like(const Tensor& x, const Tensor& other, const Shape& shape, const char* what,
                       const char* op) {
  check_same_kind(x, other, op);
  check_shape(other, shape, what, op);
}

inline void check_index(const Tensor& index, const char* op) {
  FACET_CHECK(index.defined() && index.dtype() == DType::i64 && index.rank() == 1, op,
              "expected an i64 vector of indices, got {}", index.str());
}

// Host-side bounds check; indices that live on another device are trusted.
inline void check_bounds(const Tensor& index, int64_t low, int64_t high, const char* what,
                         const char* op) {
  if (!index.device().is_cpu()) return;
  const int64_t* v = index.data<int64_t>();
  for (int64_t i = 0; i < index.numel(); ++i)
    FACET_CHECK(v[i] >= low && v[i] < high, op, "{} {} at row {} is outside [{}, {})", what, v[i],
                i, low, high);
}

}  // namespace facet::ops
