// The arithmetic of every line in unary.def and binary.def, shared by the CPU loops and the CUDA
// kernels. T is the type of the arithmetic: float (for f32 and bf16 tensors) or double.
#pragma once

#include <cmath>

#include "tensor/dtype.h"

namespace facet::functor {

// One line a function reads as a table.
// clang-format off

// ---- unary: forward(x), and derivative(x, y) = dy/dx where y = forward(x).

struct neg {
  template <typename T> FACET_HD static T forward(T x) { return -x; }
  template <typename T> FACET_HD static T derivative(T, T) { return T(-1); }
};
struct exp {
  template <typename T> FACET_HD static T forward(T x) { return std::exp(x); }
  template <typename T> FACET_HD static T derivative(T, T y) { return y; }
};
struct log {
  template <typename T> FACET_HD static T forward(T x) { return std::log(x); }
  template <typename T> FACET_HD static T derivative(T x, T) { return T(1) / x; }
};
struct sqrt {
  template <typename T> FACET_HD static T forward(T x) { return std::sqrt(x); }
  template <typename T> FACET_HD static T derivative(T, T y) { return T(0.5) / y; }
};
struct square {
  template <typename T> FACET_HD static T forward(T x) { return x * x; }
  template <typename T> FACET_HD static T derivative(T x, T) { return T(2) * x; }
};
struct abs {
  template <typename T> FACET_HD static T forward(T x) { return x < T(0) ? -x : x; }
  template <typename T> FACET_HD static T derivative(T x, T) {
    return x > T(0) ? T(1) : (x < T(0) ? T(-1) : T(0));
  }
};
struct reciprocal {
  template <typename T> FACET_HD static T forward(T x) { return T(1) / x; }
  template <typename T> FACET_HD static T derivative(T, T y) { return -y * y; }
};
struct relu {
  // Written so that a NaN stays a NaN.
  template <typename T> FACET_HD static T forward(T x) { return x < T(0) ? T(0) : x; }
  template <typename T> FACET_HD static T derivative(T x, T) { return x > T(0) ? T(1) : T(0); }
};
struct tanh {
  template <typename T> FACET_HD static T forward(T x) { return std::tanh(x); }
  // From x: 1 - y y of a y that was rounded to bf16 loses half of its digits.
  template <typename T> FACET_HD static T derivative(T x, T) {
    const T y = std::tanh(x);
    return T(1) - y * y;
  }
};
struct sigmoid {
  template <typename T> FACET_HD static T forward(T x) { return T(1) / (T(1) + std::exp(-x)); }
  template <typename T> FACET_HD static T derivative(T x, T) {  // from x as in tanh
    const T y = forward(x);
    return y * (T(1) - y);
  }
};
// The exact (erf) form that timm, DINO and MAE use; Hendrycks & Gimpel 2016.
struct gelu {
  template <typename T> FACET_HD static T forward(T x) {
    return T(0.5) * x * (T(1) + std::erf(x * T(0.70710678118654752440)));
  }
  template <typename T> FACET_HD static T derivative(T x, T) {
    const T cdf = T(0.5) * (T(1) + std::erf(x * T(0.70710678118654752440)));
    const T pdf = T(0.39894228040143267794) * std::exp(T(-0.5) * x * x);
    return cdf + x * pdf;
  }
};

// ---- binary: forward(a, b) and the partial derivatives da(a, b), db(a, b).

struct add {
  template <typename T> FACET_HD static T forward(T a, T b) { return a + b; }
  template <typename T> FACET_HD static T da(T, T) { return T(1); }
  template <typename T> FACET_HD static T db(T, T) { return T(1); }
};
struct sub {
  template <typename T> FACET_HD static T forward(T a, T b) { return a - b; }
  template <typename T> FACET_HD static T da(T, T) { return T(1); }
  template <typename T> FACET_HD static T db(T, T) { return T(-1); }
};
struct mul {
  template <typename T> FACET_HD static T forward(T a, T b) { return a * b; }
  template <typename T> FACET_HD static T da(T, T b) { return b; }
  template <typename T> FACET_HD static T db(T a, T) { return a; }
};
struct div {
  template <typename T> FACET_HD static T forward(T a, T b) { return a / b; }
  template <typename T> FACET_HD static T da(T, T b) { return T(1) / b; }
  template <typename T> FACET_HD static T db(T a, T b) { return -a / (b * b); }
};
// Where both arguments are equal each gets half of the gradient.
struct maximum {
  template <typename T> FACET_HD static T forward(T a, T b) { return a > b ? a : b; }
  template <typename T> FACET_HD static T da(T a, T b) {
    return a > b ? T(1) : (a == b ? T(0.5) : T(0));
  }
  template <typename T> FACET_HD static T db(T a, T b) { return da(b, a); }
};
struct minimum {
  template <typename T> FACET_HD static T forward(T a, T b) { return a < b ? a : b; }
  template <typename T> FACET_HD static T da(T a, T b) {
    return a < b ? T(1) : (a == b ? T(0.5) : T(0));
  }
  template <typename T> FACET_HD static T db(T a, T b) { return da(b, a); }
};

// clang-format on
}  // namespace facet::functor
