// Linear centred kernel alignment (Kornblith et al. 2019): how alike two representations of the
// same samples are. 1 for equal ones, invariant to rotations and to isotropic scaling.
#pragma once

#include <span>

#include "tensor/tensor.h"

namespace facet {

// Representations are (n, ...): the rest of the axes is flattened. f32, f64, or bf16 (computed in
// f32), on any device; only single numbers come back from it.

// ||X^T Y||_F^2 / (||X^T X||_F ||Y^T Y||_F) of centred columns (paper, equation 3), n >= 2 samples.
double linear_cka(const Tensor& x, const Tensor& y);

// CKA between all layers of a model, or of two, over batches of samples (Nguyen et al. 2021): the
// unbiased estimator HSIC_1 (Song et al. 2012) of each pair of layers is summed over the batches.
// With K~ the Gram matrix of a layer without its diagonal,
//   HSIC_1(K, L) = [tr(K~L~) + (1'K~1)(1'L~1) / ((n-1)(n-2)) - 2/(n-2) 1'K~L~1] / (n (n-3))
//                = <U(K), U(L)> / (n (n-3)),
// U(K)_ij = K_ij - r_i/(n-2) - r_j/(n-2) + s/((n-1)(n-2)) off the diagonal, r the row sums of K~, s
// their sum (Szekely & Rizzo 2014): what all samples have in common is gone before any product is
// taken, so nothing cancels in f32, and all pairs are one product of the U with each other.
class CkaAccumulator {
 public:
  // Adds a batch of n >= 4 samples, one representation a layer; n may differ between batches.
  // `second`: the same samples in another model. Every batch has the same numbers of layers.
  void add(std::span<const Tensor> first, std::span<const Tensor> second = {});

  // CKA of each layer of the first model with each of the second (of the only one: with itself),
  // f64 (L1, L2) on the CPU.
  Tensor result() const;

 private:
  int64_t first_ = 0, second_ = 0;  // layers of each model; second 0: one model alone
  Tensor hsic_;                     // f64 (first + second, first + second), the sum over batches
};

// 100 x the mean off the diagonal of a model's (L, L) matrix, L >= 2: how alike its stages are.
double cka_score(const Tensor& matrix);

}  // namespace facet
