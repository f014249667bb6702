#include "nn/vit.h"

#include "nn/init.h"
#include "tensor/text.h"

namespace facet {
namespace {

struct Plan {
  const char* name;
  int64_t width, depth;
};
constexpr Plan kPlans[] = {{"vit_tiny", 192, 12}, {"vit_small", 384, 12}, {"vit_base", 768, 12}};

}  // namespace

VitOptions resolved(VitOptions o) {
  const Plan* plan = nullptr;
  for (const Plan& p : kPlans)
    if (o.arch == p.name) plan = &p;
  if (!plan)
    throw UsageError("unknown architecture '{}': expected vit_tiny, vit_small or vit_base", o.arch);
  if (o.width == 0) o.width = plan->width;
  if (o.depth == 0) o.depth = plan->depth;
  if (o.heads == 0) o.heads = std::max<int64_t>(1, o.width / 64);  // timm's channels a head
  if (o.patch < 1 || o.image_size % o.patch != 0)
    throw UsageError(
        "{}: expected an image size of whole patches, got {} pixels with patches of {}", o.arch,
        o.image_size, o.patch);
  if (o.width % o.heads != 0)
    throw UsageError("{}: expected a width that {} heads divide, got {}", o.arch, o.heads, o.width);
  if (!(o.drop_path >= 0 && o.drop_path < 1))
    throw UsageError("{}: expected a drop path of 0 to 1, got {}", o.arch, o.drop_path);
  return o;
}

const std::vector<std::string>& vit_names() {
  static const std::vector<std::string> names = names_of(kPlans);
  return names;
}

Vit::Vit(const VitOptions& options)
    : options_(resolved(options)),
      width_(options_.width),
      cls_token_(Tensor::zeros({1, 1, width_}), true),
      patch_weight_(Tensor::zeros({width_, options_.patch, options_.patch, options_.channels}),
                    true),
      patch_bias_(Tensor::zeros({width_}), true),
      blocks_(make_blocks(options_.depth, width_, options_.heads)) {
  const bool fixed = options_.position == VitOptions::Position::sincos;
  const Tensor table = fixed ? sincos_position_embedding(grid(), width_).cast(DType::f32)
                             : Tensor::zeros({1 + grid() * grid(), width_});
  pos_embed_ = Variable(table.reshape({1, table.dim(0), width_}), !fixed);
  (options_.pool == VitOptions::Pool::mean ? fc_norm_ : norm_) =
      std::make_unique<LayerNorm>(width_);
  if (options_.num_classes > 0) head_ = std::make_unique<Linear>(width_, options_.num_classes);
}

// (2 depth, images): of a block's two branches, 1 / keep for images that keep them, 0 for the
// others.
Tensor Vit::drawn_scales(uint64_t forward, int64_t images) const {
  std::vector<double> scales;
  for (int64_t branch = 0; branch < 2 * options_.depth; ++branch) {
    const double rate = options_.drop_path * static_cast<double>(branch / 2) /
                        static_cast<double>(std::max<int64_t>(options_.depth - 1, 1));
    RandomSequence random(key_.child(forward).child(static_cast<uint64_t>(branch)));
    for (int64_t i = 0; i < images; ++i)
      scales.push_back(random.uniform() < 1.0 - rate ? 1.0 / (1.0 - rate) : 0.0);
  }
  return Tensor::from(scales, {2 * options_.depth, images}).cast(DType::f32);
}

void Vit::set_random_key(const RandomKey& key) {
  key_ = key;
  forwards_ = 0;
  // In place, where a recorded step looks for them; but not under a graph that still needs the old.
  for (size_t i = 0; i < drops_.size(); ++i) {
    if (!drops_[i].defined()) continue;
    const Tensor drawn = drawn_scales(i, drops_[i].dim(1));
    if (drops_[i].is_sole_owner())
      drops_[i].copy_(drawn);
    else
      drops_[i] = drawn.to(drops_[i].device());
  }
}

// (1 + L, D) for images of this size.
Variable Vit::position_for(int64_t height, int64_t width) const {
  const int64_t trained = grid(), h = height / options_.patch, w = width / options_.patch;
  const Variable rows = reshape(pos_embed_, {1 + trained * trained, width_});
  if (h == trained && w == trained) return rows;
  const auto along = [&](int64_t n) {
    const auto from = static_cast<double>(trained);
    const double to =
        static_cast<double>(n) + (options_.resize == VitOptions::Resize::dino ? 0.1 : 0.0);
    return bicubic_matrix(n, trained, from / to).to_vector<double>();
  };
  // Rows and columns are resampled apart: one matrix (h w, grid grid), their product.
  const std::vector<double> down = along(h), across = along(w);
  std::vector<double> both(static_cast<size_t>(h * w * trained * trained));
  size_t at = 0;
  for (int64_t y = 0; y < h; ++y)
    for (int64_t x = 0; x < w; ++x)
      for (int64_t i = 0; i < trained; ++i)
        for (int64_t j = 0; j < trained; ++j)
          both[at++] = down[static_cast<size_t>(y * trained + i)] *
                       across[static_cast<size_t>(x * trained + j)];
  const Tensor matrix = Tensor::from(both, {h * w, trained * trained}).cast(pos_embed_.dtype());
  const Variable patches =
      matmul(Variable(matrix.to(pos_embed_.device())), narrow(rows, 1, trained * trained));
  const Variable parts[] = {narrow(rows, 0, 1), patches};
  return concat(parts);
}

// (N T, D)
Variable Vit::embed(const Variable& x, const KeptPatches& kept) {
  FACET_CHECK(x.value().rank() == 4 && x.dim(3) == options_.channels, "Vit",
              "expected images (N, H, W, {}), got {}", options_.channels, x.shape());
  const int64_t images = x.dim(0);
  const Tensor pixels = patchify(x.value(), options_.patch);
  const int64_t length = pixels.dim(0) / images;
  const Variable weight = reshape(patch_weight_, {width_, patch_weight_.value().numel() / width_});
  const Variable position = as_type_of(x, position_for(x.dim(1), x.dim(2)));
  // What is not kept is not embedded; positions follow their patches.
  const bool all = !kept.rows.defined();
  const Tensor chosen = all ? pixels : ops::gather_rows(pixels, kept.rows);
  Variable patches = linear(Variable(chosen), as_type_of(x, weight), as_type_of(x, patch_bias_));
  const Variable places = narrow(position, 1, length);
  const int64_t per_image = chosen.dim(0) / images;
  patches = reshape(patches, {images, per_image, width_}) +
            (all ? reshape(places, {1, length, width_})
                 : reshape(gather_rows(places, kept.places), {images, per_image, width_}));
  const Variable first = reshape(as_type_of(x, cls_token_), {1, width_}) + narrow(position, 0, 1);
  const Variable parts[] = {reshape(broadcast_to(first, {images, width_}), {images, 1, width_}),
                            patches};
  return reshape(concat(parts, 1), {images * (1 + per_image), width_});
}

ResidualStream Vit::run(const Variable& x, const KeptPatches& kept, VariableList* stages,
                        bool class_token_only) {
  const int64_t images = x.dim(0), depth = options_.depth;
  ResidualStream stream{embed(x, kept), {}};
  const int64_t tokens = stream.sum.dim(0) / images;
  const bool dropping = training() && options_.drop_path > 0;
  const uint64_t forward = forwards_++;
  if (dropping) {
    drops_.resize(std::max(drops_.size(), forward + 1));
    Tensor& drop = drops_[forward];
    if (!drop.defined() || drop.dim(1) != images || drop.device() != x.device())
      drop = drawn_scales(forward, images).to(x.device());
  }
  // Of each token. The first block drops nothing.
  const auto scales = [&](int64_t block, int which, int64_t per_image) {
    if (!dropping || block == 0) return Tensor();
    const Tensor images_scales = drops_[forward].narrow(2 * block + which, 1);
    return ops::broadcast_to(images_scales.reshape({images, 1}), {images, per_image})
        .reshape({images * per_image, 1});
  };
  for (int64_t i = 0; i < depth; ++i) {
    const bool first_only = class_token_only && i == depth - 1;
    const int64_t per_image = first_only ? 1 : tokens;
    stream = (*blocks_[static_cast<size_t>(i)])(stream, images, scales(i, 0, per_image),
                                                scales(i, 1, per_image), first_only);
    if (stages) stages->push_back(reshape(stream.sum + stream.branch, {images, tokens, width_}));
  }
  return stream;
}

Variable Vit::tokens(const Variable& x, const KeptPatches& kept) {
  FACET_CHECK(norm_, "Vit", "{} was built with the mean of its patches", options_.arch);
  return run(x, kept, nullptr).norm(*norm_).y;
}

Variable Vit::features(const Variable& x) {
  const ResidualStream stream = run(x, {}, nullptr, norm_ != nullptr);
  if (norm_) return stream.norm(*norm_).y;
  const int64_t images = x.dim(0), tokens = stream.sum.dim(0) / images;
  const Variable patches =
      narrow(reshape(stream.sum + stream.branch, {images, tokens, width_}), 1, tokens - 1, 1);
  return (*fc_norm_)(mean(patches, 1));
}

Variable Vit::logits(const Variable& x) {
  FACET_CHECK(head_, "Vit", "{} was built without classes", options_.arch);
  return (*head_)(features(x));
}

VariableList Vit::stages(const Variable& x) {
  VariableList outputs;
  run(x, {}, &outputs);
  return outputs;
}

void Vit::initialize(uint64_t seed) {
  initialize_transformer(*this, seed, options_.init == VitOptions::Init::xavier);
  if (options_.position == VitOptions::Position::sincos)
    pos_embed_.value().copy_(sincos_position_embedding(grid(), width_)
                                 .cast(pos_embed_.dtype())
                                 .reshape(pos_embed_.shape()));
}

void Vit::visit(ModuleVisitor& v) {
  v("cls_token", cls_token_);
  v("pos_embed", pos_embed_);
  v("patch_embed.proj.weight", patch_weight_);
  v("patch_embed.proj.bias", patch_bias_);
  for (size_t i = 0; i < blocks_.size(); ++i) v("blocks." + std::to_string(i), *blocks_[i]);
  if (norm_) v("norm", *norm_);
  if (fc_norm_) v("fc_norm", *fc_norm_);
  if (head_) v("head", *head_);
}

}  // namespace facet
