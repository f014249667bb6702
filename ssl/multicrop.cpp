#include "ssl/multicrop.h"

namespace facet {

Variable crop_features(Encoder& encoder, std::span<const Tensor> crops) {
  VariableList parts;
  for (size_t first = 0; first < crops.size();) {
    size_t last = first + 1;
    while (last < crops.size() && crops[last].shape() == crops[first].shape()) ++last;
    const auto run = crops.subspan(first, last - first);
    parts.push_back(encoder.features(Variable(run.size() == 1 ? run[0] : ops::concat(run))));
    first = last;
  }
  return parts.size() == 1 ? parts[0] : concat(parts);
}

Variable swapped_prediction(const Variable& logits, const TensorList& targets, double temperature) {
  FACET_CHECK(!targets.empty() && logits.dim(0) % targets[0].dim(0) == 0, "swapped_prediction",
              "expected logits (V B, K) and targets (B, K), got {} and {}", logits.shape(),
              targets.empty() ? Shape{} : targets[0].shape());
  const int64_t samples = targets[0].dim(0), crops = logits.dim(0) / samples;
  const auto assigned = static_cast<int64_t>(targets.size());
  FACET_CHECK(crops >= 2 && assigned >= 2 && assigned <= crops, "swapped_prediction",
              "expected two crops with targets or more, got {} of {}", assigned, crops);
  // Cross entropy is linear in its target: a crop is compared with the sum of all others' at once.
  // First the sums for the crops that have a target of their own, then the one for all others.
  Tensor all = targets[0].clone();
  for (size_t i = 1; i < targets.size(); ++i) ops::add_(all, targets[i]);
  TensorList sums;
  for (const Tensor& own : targets) sums.push_back(ops::sub(all, own));
  if (crops > assigned) sums.push_back(all);
  std::vector<int64_t> row_of;
  for (int64_t crop = 0; crop < crops; ++crop)
    for (int64_t i = 0; i < samples; ++i) row_of.push_back(std::min(crop, assigned) * samples + i);
  const Tensor rows = Tensor::from(row_of, {crops * samples}).to(logits.device());
  const Variable mean = soft_cross_entropy(logits, ops::concat(sums), 1.0 / temperature, rows);
  return affine(static_cast<double>(crops) / static_cast<double>(assigned * (crops - 1)), mean);
}

}  // namespace facet
