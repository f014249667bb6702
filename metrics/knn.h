// Weighted nearest neighbours by cosine similarity (Wu et al. 2018, as DINO evaluates): each of
// the k nearest training samples votes for its class with exp(similarity / temperature).
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace facet {

struct KnnOptions {
  int64_t k = 20;
  double temperature = 0.07;
  int64_t scratch_bytes = int64_t{256} << 20;  // for the similarities of one block of queries
};

struct KnnResult {
  Tensor scores;        // f64 (M, classes): sum of the votes
  Tensor neighbours;    // i64 (M, k): training rows, nearest first, equals by smaller index
  Tensor similarities;  // (M, k)
};

// train (N, d) with labels i64 (N) in [0, classes), queries (M, d); rows need no normalising.
KnnResult knn_classify(const Tensor& train, const Tensor& labels, int64_t classes,
                       const Tensor& queries, const KnnOptions& options = {});

}  // namespace facet
