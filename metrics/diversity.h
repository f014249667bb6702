// Feature diversity of trained weights: clustering diversity D_C and spectral diversity D_S, from
// the Gram matrix of a layer's features. A feature is the weight vector of one output unit.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace facet {

enum class LayerKind : uint8_t {
  none,         // biases, norms, tokens, position embeddings: no features
  convolution,  // (Cout, kh, kw, Cin / groups): Cout features
  shortcut,     // the convolution of a residual connection ("downsample")
  linear,       // (out, in): out features
  attention,    // packed q, k, v of H heads, (3 D, D): 3 H matrices of D / H features
  head,         // classifiers, projections and decoders after the backbone
};
const char* name(LayerKind kind);

struct NamedWeight {
  std::string name;
  Tensor value;
};

// What a parameter is, by its torchvision or timm name (prefixes such as "module." do not matter)
// and its shape.
LayerKind layer_kind(std::string_view name, const Shape& shape);

struct FeatureMatrix {
  std::string name;
  LayerKind kind = LayerKind::none;
  Tensor rows;  // (n, d): n features of d weights, f32 or f64
};

// The matrices of one layer: one, or three a head for attention ("...qkv.weight[head 3 k]").
// heads = 0 takes heads of 64 channels, as in every ViT of timm but the huge one.
std::vector<FeatureMatrix> feature_matrices(const NamedWeight& weight, LayerKind kind,
                                            int heads = 0);

enum class VitLayers : uint8_t { msa, all };  // q, k, v of the attention layers alone; or all

struct DiversityOptions {
  bool include_head = false;
  bool shortcut = true;
  VitLayers vit_layers = VitLayers::msa;  // read for models that have attention layers
  int heads = 0;
  bool centre = false;                  // D_S: subtract the mean feature
  bool normalize = false;               // D_S: features of unit length (after centring)
  std::vector<double> thresholds = {};  // tau for which the fraction of clusters C_tau is wanted
};

struct LayerDiversity {
  std::string name;
  LayerKind kind = LayerKind::none;
  int64_t n = 0, d = 0;
  double clustering = 1.0;        // D_C
  double spectral = 0.0;          // D_S
  std::vector<double> remaining;  // C_tau, one a threshold
};

// Means over the layers; each head's q, k and v counts as one.
struct ModelDiversity {
  double clustering = 0.0, spectral = 0.0;
  std::vector<double> remaining;
  std::vector<LayerDiversity> layers;
};

LayerDiversity layer_diversity(const FeatureMatrix& features, const DiversityOptions& options = {});
// Of many layers, whose clusterings are found side by side.
std::vector<LayerDiversity> layer_diversities(std::span<const FeatureMatrix> layers,
                                              const DiversityOptions& options = {});
ModelDiversity model_diversity(std::span<const NamedWeight> weights,
                               const DiversityOptions& options = {});

// The area under C_tau over [0, 1] and C_tau itself, from the similarities of the n - 1 merges of
// an average-linkage dendrogram.
double clustering_diversity(std::span<const double> merges);
double cluster_fraction(std::span<const double> merges, double tau);
// From the eigenvalues of W W^T or W^T W in any order; those not above largest * rank_tolerance
// are no part of the spectrum.
double spectral_diversity(std::span<const double> eigenvalues, double rank_tolerance);

// Calibrated ImageNet Score: accuracy in percent times a diversity.
inline double calibrated_imagenet_score(double accuracy_percent, double diversity) {
  return accuracy_percent * diversity;
}

}  // namespace facet
