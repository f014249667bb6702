#include "metrics/diversity.h"

#include <algorithm>
#include <array>
#include <functional>
#include <utility>

#include "tensor/ops.h"

namespace facet {
namespace {

std::vector<std::string_view> split(std::string_view name) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t dot = name.find('.');
    parts.push_back(name.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    name.remove_prefix(dot + 1);
  }
}

bool is_head(std::string_view part) {
  static constexpr std::array<std::string_view, 10> kHeads = {
      "fc",         "head",      "heads",     "head_dist",       "classifier",
      "prototypes", "projector", "predictor", "projection_head", "prediction_head"};
  return std::find(kHeads.begin(), kHeads.end(), part) != kHeads.end() ||
         part.starts_with("decoder");
}

bool is_shortcut(std::string_view part) {
  return part == "downsample" || part == "shortcut";
}

// Below this a norm counts as zero: its square would underflow.
double smallest_norm(DType dtype) {
  return dtype == DType::f64 ? 1e-150 : 1e-18;
}
double rank_tolerance(DType dtype) {
  return dtype == DType::f64 ? 1e-12 : 1e-6;
}

// Elements of the cosines that are clustered at once: a device takes all layers of a ResNet-50
// together, and a ViT's do not fill its memory.
constexpr int64_t kCosinesAtOnce = int64_t{1} << 27;

Tensor gram(const Tensor& x) {
  return ops::matmul(x, x, false, true);
}  // (n, d) -> (n, n)

// Eigenvalues of the smaller of W W^T and W^T W, (min(n, d)).
Tensor spectrum(const Tensor& w) {
  return ops::eigvalsh(w.rows() <= w.cols() ? gram(w) : ops::matmul(w, w, true, false));
}

// The same for w (n, d) as the options ask, reusing the cosines (n, n) of its rows where the
// smaller Gram matrix is W W^T: that is the cosines times both norms.
Tensor spectrum(const Tensor& w, const ops::Normalized& unit, const Tensor& cosines,
                const DiversityOptions& options) {
  const int64_t n = w.dim(0), d = w.dim(1);
  if (options.centre) {
    const Tensor x = ops::sub(w, ops::reduce(ReduceOp::mean, w, 0).reshape({1, d}));
    return spectrum(options.normalize ? ops::l2_normalize(x, smallest_norm(w.dtype())).y : x);
  }
  if (n > d) return spectrum(options.normalize ? unit.y : w);
  if (options.normalize) return ops::eigvalsh(cosines);
  const Tensor scaled = ops::mul(cosines, unit.norm.reshape({n, 1}));
  return ops::eigvalsh(ops::mul(scaled, unit.norm.reshape({1, n})));
}

bool is_wanted(LayerKind kind, bool vit, const DiversityOptions& options) {
  switch (kind) {
    case LayerKind::none: return false;
    case LayerKind::head: return options.include_head;
    case LayerKind::attention: return true;
    case LayerKind::shortcut: return options.shortcut;
    default: return !vit || options.vit_layers == VitLayers::all;
  }
}

}  // namespace

const char* name(LayerKind kind) {
  switch (kind) {
    case LayerKind::none: return "none";
    case LayerKind::convolution: return "convolution";
    case LayerKind::shortcut: return "shortcut";
    case LayerKind::linear: return "linear";
    case LayerKind::attention: return "attention";
    case LayerKind::head: return "head";
  }
  return "?";
}

LayerKind layer_kind(std::string_view name, const Shape& shape) {
  const std::vector<std::string_view> parts = split(name);
  const bool packed = parts.back() == "in_proj_weight";  // torchvision's attention
  if ((parts.back() != "weight" && !packed) || (shape.rank() != 2 && shape.rank() != 4))
    return LayerKind::none;
  if (std::any_of(parts.begin(), parts.end(), is_head)) return LayerKind::head;
  if (shape.rank() == 4)
    return std::any_of(parts.begin(), parts.end(), is_shortcut) ? LayerKind::shortcut
                                                                : LayerKind::convolution;
  if (packed || (parts.size() >= 2 && parts[parts.size() - 2] == "qkv"))
    return LayerKind::attention;
  return LayerKind::linear;
}

std::vector<FeatureMatrix> feature_matrices(const NamedWeight& weight, LayerKind kind, int heads) {
  const Shape& shape = weight.value.shape();
  FACET_CHECK(shape.rank() >= 2 && shape.numel() > 0, "diversity",
              "'{}' of shape {} has no features", weight.name, shape);
  const DType dtype = weight.value.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const int64_t n = shape[0], d = shape.numel() / n;
  const Tensor rows = weight.value.cast(dtype).reshape({n, d});
  if (kind != LayerKind::attention) return {{weight.name, kind, rows}};

  if (heads == 0 && d % 64 == 0) heads = static_cast<int>(d / 64);
  FACET_CHECK(heads > 0 && n == 3 * d && d % heads == 0, "diversity",
              "'{}' of shape {} is not q, k and v of {} heads: give the number of heads",
              weight.name, shape, heads);
  std::vector<FeatureMatrix> matrices;
  const int64_t size = d / heads;
  for (int part = 0; part < 3; ++part)
    for (int head = 0; head < heads; ++head)
      matrices.push_back({fmt::format("{}[head {} {}]", weight.name, head, "qkv"[part]), kind,
                          rows.narrow(part * d + head * size, size)});
  return matrices;
}

double clustering_diversity(std::span<const double> merges) {
  double sum = 0.0;
  for (const double s : merges) sum += std::clamp(s, 0.0, 1.0);
  return 1.0 - sum / static_cast<double>(merges.size() + 1);
}

double cluster_fraction(std::span<const double> merges, double tau) {
  const auto above = std::count_if(merges.begin(), merges.end(), [&](double s) { return s > tau; });
  return 1.0 - static_cast<double>(above) / static_cast<double>(merges.size() + 1);
}

double spectral_diversity(std::span<const double> eigenvalues, double rank_tolerance) {
  std::vector<double> l(eigenvalues.begin(), eigenvalues.end());
  std::sort(l.begin(), l.end(), std::greater<>());
  if (l.empty() || l[0] <= 0.0) return 0.0;
  const auto end = std::find_if(l.begin(), l.end(),
                                [&](double value) { return value <= l[0] * rank_tolerance; });
  const auto r = static_cast<double>(end - l.begin());
  // Eigenvalue i (from 0) is part of r - i of the sums E_1 ... E_r.
  double total = 0.0, area = 0.0, times = r;
  for (auto value = l.begin(); value != end; ++value) {
    total += *value;
    area += *value * times--;
  }
  return 1.0 - area / (total * r);
}

namespace {

void check_features(std::span<const FeatureMatrix> layers) {
  TensorList all;
  for (const FeatureMatrix& features : layers) {
    FACET_CHECK(features.rows.rank() == 2 && features.rows.numel() > 0, "diversity",
                "'{}': expected (n, d), got {}", features.name, features.rows.shape());
    all.push_back(features.rows);
  }
  const int64_t bad = ops::find_nonfinite(all);
  if (bad >= 0)
    throw NonFiniteError("[diversity] NaN or infinity in the weights of '{}'",
                         layers[static_cast<size_t>(bad)].name);
}

// Fills in what the dendrograms of these cosines, one a layer, say.
void cluster(TensorList& cosines, std::span<LayerDiversity> layers,
             const DiversityOptions& options) {
  const TensorList dendrograms = ops::average_linkage(std::exchange(cosines, {}));
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::vector<double> merges = dendrograms[i].to_vector<double>();
    layers[i].clustering = clustering_diversity(merges);
    for (const double tau : options.thresholds)
      layers[i].remaining.push_back(cluster_fraction(merges, tau));
  }
}

}  // namespace

std::vector<LayerDiversity> layer_diversities(std::span<const FeatureMatrix> layers,
                                              const DiversityOptions& options) {
  check_features(layers);
  std::vector<LayerDiversity> results;
  TensorList waiting;  // cosines, clustered together; no more than kCosinesAtOnce
  int64_t elements = 0;
  const auto cluster_waiting = [&] {
    cluster(waiting, std::span(results).last(waiting.size()), options);
    elements = 0;
  };
  for (const FeatureMatrix& features : layers) {
    const Tensor& w = features.rows;  // (n, d)
    const ops::Normalized unit = ops::l2_normalize(w, smallest_norm(w.dtype()));
    const Tensor cosines = gram(unit.y);
    const bool fits = waiting.empty() || (elements + cosines.numel() <= kCosinesAtOnce &&
                                          waiting[0].dtype() == cosines.dtype());
    if (!fits) cluster_waiting();
    const std::vector<double> eigenvalues = spectrum(w, unit, cosines, options).to_vector<double>();
    LayerDiversity layer;
    layer.name = features.name;
    layer.kind = features.kind;
    layer.n = w.dim(0);
    layer.d = w.dim(1);
    layer.spectral = spectral_diversity(eigenvalues, rank_tolerance(w.dtype()));
    results.push_back(std::move(layer));
    elements += cosines.numel();
    waiting.push_back(cosines);
  }
  if (!waiting.empty()) cluster_waiting();
  return results;
}

LayerDiversity layer_diversity(const FeatureMatrix& features, const DiversityOptions& options) {
  return layer_diversities(std::span(&features, 1), options)[0];
}

ModelDiversity model_diversity(std::span<const NamedWeight> weights,
                               const DiversityOptions& options) {
  const auto kind_of = [](const NamedWeight& w) { return layer_kind(w.name, w.value.shape()); };
  const bool vit = std::any_of(weights.begin(), weights.end(), [&](const NamedWeight& w) {
    return kind_of(w) == LayerKind::attention;
  });
  std::vector<FeatureMatrix> layers;
  for (const NamedWeight& weight : weights) {
    const LayerKind kind = kind_of(weight);
    if (!is_wanted(kind, vit, options)) continue;
    for (FeatureMatrix& features : feature_matrices(weight, kind, options.heads))
      layers.push_back(std::move(features));
  }
  FACET_CHECK(!layers.empty(), "diversity",
              "none of the {} weights is a layer with features, by name and shape", weights.size());

  ModelDiversity model;
  model.layers = layer_diversities(layers, options);
  model.remaining.assign(options.thresholds.size(), 0.0);
  for (const LayerDiversity& layer : model.layers) {
    model.clustering += layer.clustering;
    model.spectral += layer.spectral;
    for (size_t i = 0; i < model.remaining.size(); ++i) model.remaining[i] += layer.remaining[i];
  }
  const auto count = static_cast<double>(model.layers.size());
  model.clustering /= count;
  model.spectral /= count;
  for (double& fraction : model.remaining) fraction /= count;
  return model;
}

}  // namespace facet
