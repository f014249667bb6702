// Contrastive losses. Rows are samples; embeddings are given as networks make them, not
// normalised. On several ranks each gives its own rows and gets the mean loss of its own anchors;
// candidates come from all, and gradients flow to all (Comm), so that the mean over ranks of the
// gradients is that of one rank with the whole batch.
#pragma once

#include "autograd/ops.h"
#include "tensor/comm.h"

namespace facet {

// NT-Xent (Chen et al. 2020, equation 1), mean over all anchors. h (2N, D): the N first views, then
// their N second views. Each anchor has 2N - 1 candidates, one of them positive. The official
// TensorFlow code returns twice this value.
Variable nt_xent(const Variable& h, double temperature, Comm& comm = single_rank());

struct SupconOptions {
  double temperature = 0.07;
  // The loss is multiplied by temperature / base_temperature. The official code keeps 0.07; equal
  // to the temperature it is the paper's formula.
  double base_temperature = 0.07;
  bool first_view_only = false;  // contrast_mode 'one': anchors are the first views
};
// Supervised contrastive loss (Khosla et al. 2020, equation 2, "out"). h (V N, D) view-major,
// labels i64 (N). Positives are all other rows of the same label; an anchor without any counts as
// loss 0. Labels that are all different give nt_xent.
Variable supcon(const Variable& h, const Tensor& labels, const SupconOptions& options,
                Comm& comm = single_rank());

// InfoNCE with a queue (He et al. 2020, equation 1), mean over rows: queries q and their keys k
// (N, D), both of unit length, against the queue (K, D) of unit rows. Keys and queue get no
// gradient.
Variable info_nce(const Variable& q, const Tensor& k, const Tensor& queue, double temperature);

}  // namespace facet
