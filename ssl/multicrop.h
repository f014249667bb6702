// What methods with many crops of a picture share.
#pragma once

#include <span>

#include "nn/encoder.h"

namespace facet {

// Features of all crops, crop-major (V B, D): the encoder runs once for each run of crops of one
// size, so batch norms see those together.
Variable crop_features(Encoder& encoder, std::span<const Tensor> crops);

// Swapped prediction (Caron et al. 2020, equation 2; Caron et al. 2021, equation 3) from logits
// (V B, K) of V crops, crop-major, and targets of the first crops, (B, K) each: the mean over them
// and over the other crops of the cross entropy of softmax(logits / T).
Variable swapped_prediction(const Variable& logits, const TensorList& targets, double temperature);

}  // namespace facet
