// How far the classes of labelled features lie apart, by cosine distance 1 - u.v of unit rows
// (paper, appendix E). With u the unit rows and mu_k their mean within class k, the double sums
// over samples collapse into sums over class means, so that nothing is N x N.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace facet {

struct SeparationOptions {
  int64_t scratch_bytes = int64_t{64} << 20;  // for one block of rows
};

struct Separation {
  // Mean over classes of the mean distance of two of its samples, a sample and itself among them
  // (equations 4 and 7): 1 - mean_k |mu_k|^2.
  double intra = 0.0;
  // Mean distance of two samples of two classes, a class and itself among them (equations 5 and 8):
  // 1 - |mean_k mu_k|^2. Never less than intra.
  double inter = 0.0;
  // The same over pairs of different classes alone.
  double inter_other = 0.0;
  // Mean over samples of (s - v) / max(s, v) (equation 6; scikit-learn's silhouette_score with the
  // cosine metric): v the mean distance to the others of the sample's class, s to the nearest other
  // class. A class of one sample scores 0.
  double silhouette = 0.0;
  int64_t classes = 0;  // that have samples: the others do not count
};

// features (N, d) of f32, f64 or bf16, no row zero; labels i64 (N) in [0, classes), at least two of
// them present. Class means are f64; the one product (N, d) x (d, classes) is of the features' type
// (f32 for bf16), about the mean of all classes. Works on the features' device in blocks of rows;
// three numbers a row come back.
Separation separation(const Tensor& features, const Tensor& labels, int64_t classes,
                      const SeparationOptions& options = {});

}  // namespace facet
