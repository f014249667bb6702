#include "ssl/mae.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace facet {

MaeMask MaeMask::from_noise(const Tensor& noise, double ratio) {
  FACET_CHECK(noise.rank() == 2, "MaeMask", "expected noise (images, patches), got {}",
              noise.shape());
  const int64_t images = noise.dim(0), patches = noise.dim(1);
  const auto keep = static_cast<int64_t>(static_cast<double>(patches) * (1.0 - ratio));
  FACET_CHECK(keep >= 1 && keep < patches, "MaeMask",
              "expected a ratio that masks some of {} patches and keeps some, got {}", patches,
              ratio);
  const std::vector<double> values = noise.to_vector<double>();
  std::vector<int64_t> rows, places, visible, masked_at, patches_at;
  std::vector<float> masked(static_cast<size_t>(images * (1 + patches)), 0.0f);
  std::vector<int64_t> order(static_cast<size_t>(patches));
  for (int64_t image = 0; image < images; ++image) {
    std::iota(order.begin(), order.end(), 0);
    const double* const of = values.data() + image * patches;
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return of[a] < of[b]; });
    const int64_t first_patch = image * patches, first_token = image * (1 + patches);
    visible.push_back(first_token);
    for (int64_t i = 0; i < patches; ++i) {
      const int64_t place = order[static_cast<size_t>(i)], token = first_token + 1 + place;
      if (i < keep) {
        rows.push_back(first_patch + place);
        places.push_back(place);
        visible.push_back(token);
      } else {
        masked[static_cast<size_t>(token)] = 1.0f;
      }
    }
    // In the order of the picture, so that reading them walks forwards.
    for (int64_t place = 0; place < patches; ++place)
      if (masked[static_cast<size_t>(first_token + 1 + place)] > 0) {
        masked_at.push_back(first_token + 1 + place);
        patches_at.push_back(first_patch + place);
      }
  }
  const auto list = [](const std::vector<int64_t>& v) {
    return Tensor::from(v, {static_cast<int64_t>(v.size())});
  };
  return {{list(rows), list(places)},
          list(visible),
          Tensor::from(masked, {images * (1 + patches), 1}),
          list(masked_at),
          list(patches_at)};
}

MaeMask MaeMask::random(int64_t images, int64_t patches, double ratio, const RandomKey& key) {
  return from_noise(ops::random_uniform({images, patches}, key, 0.0, 1.0), ratio);
}

TensorList MaeMask::tensors() const {
  return {kept.rows, kept.places, visible, masked, masked_at, patches_at};
}

MaeMask MaeMask::from_tensors(const TensorList& t) {
  FACET_CHECK(t.size() == 6, "mae", "the batch was not prepared");
  return {{t[0], t[1]}, t[2], t[3], t[4], t[5]};
}

Variable mae_loss(const Variable& predicted, const Tensor& images, int64_t patch, const Tensor& at,
                  bool norm_pix) {
  const DType acc = acc_dtype(predicted.dtype());
  Tensor target = ops::gather_rows(patchify(images, patch), at).cast(acc);
  if (norm_pix) {
    // layer_norm divides by sqrt(biased variance + eps): both take the factor (n - 1) / n.
    const auto n = static_cast<double>(target.dim(1));
    const double unbiased = (n - 1.0) / n;
    target =
        ops::layer_norm(target, {},
                        Tensor::full({target.dim(1)}, std::sqrt(unbiased), acc, target.device()),
                        Tensor::zeros({target.dim(1)}, acc, target.device()), 1e-6 * unbiased)
            .y;
  }
  return mean(square(cast(predicted, acc) - Variable(target)));
}

Mae::Mae(std::unique_ptr<Vit> encoder, const MaeOptions& options)
    : options_(options),
      encoder_(std::move(encoder)),
      decoder_({.in = encoder_->feature_dim(),
                .width = options.decoder_width,
                .depth = options.decoder_depth,
                .heads = options.decoder_heads,
                .grid = encoder_->grid(),
                .patch_values = patch_values()}) {
  const auto patches = static_cast<double>(encoder_->grid() * encoder_->grid());
  const double kept = std::floor(patches * (1.0 - options.mask_ratio));
  if (!(kept >= 1 && kept < patches))
    throw UsageError("--mask-ratio: expected a share that masks some of {} patches, got {}",
                     patches, options.mask_ratio);
}

int64_t Mae::patch_values() const {
  const VitOptions& o = encoder_->options();
  return o.patch * o.patch * o.channels;
}

void Mae::prepare(Batch& batch, int64_t step) {
  const int64_t patches = encoder_->grid() * encoder_->grid();
  const RandomKey key = random_key(seed_, RandomPurpose::mask)
                            .child(static_cast<uint64_t>(step))
                            .child(static_cast<uint64_t>(comm_->rank()));
  const int64_t rows = batch.labels.dim(0) / parts_;
  const Tensor noise = ops::random_uniform({batch.labels.dim(0), patches}, key, 0.0, 1.0);
  batch.extra.clear();
  for (int64_t i = 0; i < parts_; ++i)
    for (Tensor& t :
         MaeMask::from_noise(noise.narrow(i * rows, rows), options_.mask_ratio).tensors())
      batch.extra.push_back(std::move(t));
}

Variable Mae::loss(const Batch& batch, int64_t) {
  FACET_CHECK(batch.views.size() == 1, name(), "expected one view a sample, got {}",
              batch.views.size());
  const Tensor& images = batch.views[0];
  const MaeMask mask = MaeMask::from_tensors(batch.extra);
  const Variable encoded = encoder_->tokens(Variable(images), mask.kept);
  const int64_t n = images.dim(0);
  last_tokens_ = encoded.value().reshape({n, encoded.dim(0) / n, encoded.dim(1)});
  const Variable predicted = decoder_(encoded, mask.visible, mask.masked, mask.masked_at);
  last_images_ = images;
  last_masked_ = mask.patches_at;
  return mae_loss(predicted, images, encoder_->options().patch, mask.patches_at, options_.norm_pix);
}

double Mae::collapse_loss(int64_t) const {
  const auto n = static_cast<double>(patch_values());
  if (!last_images_.defined()) return options_.norm_pix ? (n - 1.0) / n : 1.0;
  const Variable zeros(Tensor::zeros({last_masked_.numel(), patch_values()},
                                     acc_dtype(last_images_.dtype()), last_images_.device()));
  return mae_loss(zeros, last_images_, encoder_->options().patch, last_masked_, options_.norm_pix)
      .item();
}

std::vector<NamedMetric> Mae::metrics() const {
  if (!last_tokens_.defined()) return {};
  const Tensor first = ops::narrow(last_tokens_, 0, 1, 1);
  return embedding_spread(first.reshape({first.dim(0), first.dim(2)}));
}

void Mae::visit(ModuleVisitor& v) {
  v("encoder", *encoder_);
  v("", decoder_);
}

}  // namespace facet
