#include "metrics/diversity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "metrics/resnet50_weights.h"
#include "tensor/ops.h"
#include "tests/folder.h"
#include "tests/generators.h"

namespace facet {
namespace {

using test::hashed;

LayerDiversity measure(const Tensor& w, const DiversityOptions& options = {}) {
  return layer_diversity({"w", LayerKind::linear, w}, options);
}

Tensor matrix(std::initializer_list<double> values, const Shape& shape) {
  return Tensor::from(std::vector<double>(values), shape);
}

// W (1 - a) + a |base|, the base added to every row.
Tensor mixed(const std::string& name, int64_t n, int64_t d, double a) {
  const Tensor base = ops::abs(hashed(name + ".base", {1, d}));
  return ops::add(ops::affine(1.0 - a, hashed(name, {n, d}), 0.0), ops::affine(a, base, 0.0));
}

struct Golden {
  Tensor w;
  double clustering, spectral;
};
std::vector<Golden> goldens() {
  return {{hashed("div.a", {16, 24}), 0.799932959950, 0.240590049119},
          {hashed("div.b", {64, 27}), 0.718591685762, 0.294837324542},
          {mixed("div.c", 48, 147, 0.6), 0.259382469352, 0.091861986883},
          {mixed("div.d", 40, 10, 0.9), 0.031456219427, 0.004154045847}};
}

TEST(Diversity, Goldens) {
  for (const Golden& golden : goldens()) {
    const LayerDiversity exact = measure(golden.w);
    EXPECT_NEAR(exact.clustering, golden.clustering, 1e-9);
    EXPECT_NEAR(exact.spectral, golden.spectral, 1e-9);
    const LayerDiversity single = measure(golden.w.cast(DType::f32));
    EXPECT_NEAR(single.clustering, golden.clustering, 1e-5);
    EXPECT_NEAR(single.spectral, golden.spectral, 1e-5);
  }
}

// The closed form against its definition: C_tau integrated over a fine grid, and the clusters of
// C_tau counted in a dendrogram known by hand.
TEST(Diversity, ClusteringIsTheAreaUnderTheClusterFractions) {
  const std::vector<double> merges = {0.9, 0.5, 0.5, 0.25, -0.2};  // 6 features
  EXPECT_DOUBLE_EQ(cluster_fraction(merges, 0.95), 1.0);
  EXPECT_DOUBLE_EQ(cluster_fraction(merges, 0.5), 5.0 / 6.0);  // merges strictly above tau
  EXPECT_DOUBLE_EQ(cluster_fraction(merges, 0.0), 2.0 / 6.0);
  double area = 0.0;
  const int steps = 20000;
  for (int i = 0; i < steps; ++i) area += cluster_fraction(merges, (i + 0.5) / steps) / steps;
  EXPECT_NEAR(clustering_diversity(merges), area, 1e-4);
  EXPECT_DOUBLE_EQ(clustering_diversity({}), 1.0);
}

TEST(Diversity, SpectralClosedFormIsTheMeanOfThePartialSums) {
  const std::vector<double> l = {0.5, 4.0, 1.0, 1e-14};  // the last is below the numerical rank
  const double total = 5.5;
  const double expected = 1.0 - (4.0 / total + 5.0 / total + 5.5 / total) / 3.0;
  EXPECT_NEAR(spectral_diversity(l, 1e-12), expected, 1e-15);
}

TEST(Diversity, LimitingCases) {
  const LayerDiversity same = measure(Tensor::full({5, 8}, 0.3, DType::f64));
  EXPECT_NEAR(same.clustering, 1.0 / 5.0, 1e-12);  // one cluster
  EXPECT_NEAR(same.spectral, 0.0, 1e-12);          // one direction
  const Tensor identity = matrix({1, 0, 0, 0, 1, 0, 0, 0, 1}, {3, 3});
  EXPECT_NEAR(measure(identity).clustering, 1.0, 1e-12);
  EXPECT_NEAR(measure(identity).spectral, 1.0 / 3.0, 1e-12);  // 1 - (1/3 + 2/3 + 1) / 3
  const LayerDiversity zero = measure(Tensor::zeros({4, 6}, DType::f64));
  EXPECT_EQ(zero.clustering, 1.0);  // cosine 0 with everything
  EXPECT_EQ(zero.spectral, 0.0);
  EXPECT_EQ(measure(hashed("one", {1, 9})).clustering, 1.0);
}

TEST(Diversity, SimilarityIgnoresTheLengthOfFeaturesEvenTiny) {
  const Tensor w = hashed("len", {12, 20}).cast(DType::f32);
  Tensor scale = Tensor::full({12, 1}, 1.0);
  scale.data<float>()[3] = 1e-15f;
  scale.data<float>()[7] = 1e6f;
  EXPECT_NEAR(measure(ops::mul(w, scale)).clustering, measure(w).clustering, 1e-5);
}

// Wide and tall matrices take different roads to the same spectrum.
TEST(Diversity, OptionsAgreeBetweenWideAndTall) {
  for (const Shape& shape : {Shape{9, 21}, Shape{21, 9}}) {
    const Tensor w = hashed("opt", shape);
    const int64_t d = shape[1];
    const Tensor centred = ops::sub(w, ops::reduce(ReduceOp::mean, w, 0).reshape({1, d}));
    EXPECT_NEAR(measure(w, {.normalize = true}).spectral, measure(ops::l2_normalize(w).y).spectral,
                1e-12);
    EXPECT_NEAR(measure(w, {.centre = true}).spectral, measure(centred).spectral, 1e-12);
    EXPECT_NEAR(measure(w, {.centre = true, .normalize = true}).spectral,
                measure(ops::l2_normalize(centred).y).spectral, 1e-12);
    EXPECT_GT(std::fabs(measure(w, {.centre = true}).spectral - measure(w).spectral), 1e-4);
    EXPECT_EQ(measure(w, {.centre = true}).clustering, measure(w).clustering);
  }
}

std::vector<FeatureMatrix> layers_of_many_sizes() {
  return {{"a", LayerKind::linear, hashed("many.a", {12, 30})},
          {"b", LayerKind::linear, hashed("many.b", {33, 7}).cast(DType::f32)},
          {"c", LayerKind::linear, hashed("many.c", {1, 4}).cast(DType::f32)},
          {"d", LayerKind::linear, hashed("many.d", {40, 40}).cast(DType::f32)}};
}

TEST(Diversity, LayersTogetherAreAsAlone) {
  const DiversityOptions options = {.thresholds = {0.1}};
  const std::vector<FeatureMatrix> layers = layers_of_many_sizes();
  const std::vector<LayerDiversity> together = layer_diversities(layers, options);
  ASSERT_EQ(together.size(), layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerDiversity alone = layer_diversity(layers[i], options);
    EXPECT_EQ(together[i].name, layers[i].name);
    EXPECT_EQ(together[i].clustering, alone.clustering);
    EXPECT_EQ(together[i].spectral, alone.spectral);
    EXPECT_EQ(together[i].remaining, alone.remaining);
  }
  EXPECT_EQ(layer_diversities({}).size(), 0u);
}

TEST(Diversity, DevicesGiveTheCpusValues) {
  std::vector<FeatureMatrix> layers = layers_of_many_sizes();
  const std::vector<LayerDiversity> want = layer_diversities(layers);
  for (const Device device : test::other_devices()) {
    for (FeatureMatrix& layer : layers) layer.rows = layer.rows.to(device);
    const std::vector<LayerDiversity> got = layer_diversities(layers);
    for (size_t i = 0; i < layers.size(); ++i) {
      EXPECT_NEAR(got[i].clustering, want[i].clustering, 1e-6);
      EXPECT_NEAR(got[i].spectral, want[i].spectral, 1e-6);
    }
    Tensor broken = Tensor::full({4, 4}, std::nan("")).to(device);
    EXPECT_THROW(ops::average_linkage(broken), Error);
    layers.push_back({"broken", LayerKind::linear, broken});
    EXPECT_THROW(layer_diversities(layers), NonFiniteError);
  }
}

TEST(Diversity, KindsByNameAndShape) {
  const auto kind = [](const char* name, const Shape& shape) { return layer_kind(name, shape); };
  EXPECT_EQ(kind("conv1.weight", {64, 7, 7, 3}), LayerKind::convolution);
  EXPECT_EQ(kind("module.layer1.0.downsample.0.weight", {256, 1, 1, 64}), LayerKind::shortcut);
  EXPECT_EQ(kind("layer1.0.downsample.1.weight", {256}), LayerKind::none);
  EXPECT_EQ(kind("bn1.running_mean", {64}), LayerKind::none);
  EXPECT_EQ(kind("fc.weight", {1000, 2048}), LayerKind::head);
  EXPECT_EQ(kind("fc.bias", {1000}), LayerKind::none);
  EXPECT_EQ(kind("queue", {128, 65536}), LayerKind::none);
  EXPECT_EQ(kind("patch_embed.proj.weight", {768, 16, 16, 3}), LayerKind::convolution);
  EXPECT_EQ(kind("pos_embed", {1, 197, 768}), LayerKind::none);
  EXPECT_EQ(kind("blocks.0.attn.qkv.weight", {2304, 768}), LayerKind::attention);
  EXPECT_EQ(kind("blocks.0.attn.proj.weight", {768, 768}), LayerKind::linear);
  EXPECT_EQ(kind("blocks.0.mlp.fc1.weight", {3072, 768}), LayerKind::linear);
  EXPECT_EQ(kind("decoder_blocks.0.attn.qkv.weight", {1536, 512}), LayerKind::head);
}

TEST(Diversity, AttentionIsMeasuredHeadByHead) {
  const Tensor qkv = hashed("qkv", {3 * 8, 8});  // 2 heads of 4 channels
  const auto matrices = feature_matrices({"attn.qkv.weight", qkv}, LayerKind::attention, 2);
  ASSERT_EQ(matrices.size(), 6u);
  EXPECT_EQ(matrices[3].name, "attn.qkv.weight[head 1 k]");
  EXPECT_EQ(matrices[3].rows.to_vector<double>(), qkv.narrow(12, 4).to_vector<double>());
  EXPECT_THROW(feature_matrices({"attn.qkv.weight", qkv}, LayerKind::attention), Error);
}

TEST(Diversity, ModelIsTheMeanOfTheLayersAskedFor) {
  const std::vector<NamedWeight> resnet = {
      {"conv1.weight", hashed("m1", {6, 3, 3, 2})},
      {"bn1.weight", hashed("m2", {6})},
      {"layer1.0.downsample.0.weight", hashed("m3", {8, 1, 1, 6})},
      {"fc.weight", hashed("m4", {5, 8})}};
  const ModelDiversity model = model_diversity(resnet, {.thresholds = {0.0, 1.0}});
  ASSERT_EQ(model.layers.size(), 2u);
  EXPECT_EQ(model.layers[0].n, 6);
  EXPECT_EQ(model.layers[0].d, 18);
  EXPECT_DOUBLE_EQ(model.clustering,
                   (model.layers[0].clustering + model.layers[1].clustering) / 2.0);
  EXPECT_DOUBLE_EQ(model.spectral, (model.layers[0].spectral + model.layers[1].spectral) / 2.0);
  ASSERT_EQ(model.remaining.size(), 2u);
  EXPECT_DOUBLE_EQ(model.remaining[1], 1.0);
  EXPECT_LT(model.remaining[0], 1.0);
  EXPECT_EQ(model_diversity(resnet, {.include_head = true}).layers.size(), 3u);
  EXPECT_EQ(model_diversity(resnet, {.shortcut = false}).layers.size(), 1u);

  const std::vector<NamedWeight> vit = {{"patch_embed.proj.weight", hashed("v1", {8, 2, 2, 3})},
                                        {"blocks.0.attn.qkv.weight", hashed("v2", {24, 8})},
                                        {"blocks.0.mlp.fc1.weight", hashed("v3", {16, 8})}};
  EXPECT_EQ(model_diversity(vit, {.heads = 2}).layers.size(), 6u);
  EXPECT_EQ(model_diversity(vit, {.vit_layers = VitLayers::all, .heads = 2}).layers.size(), 8u);
}

TEST(Diversity, NonFiniteWeightsNameTheLayer) {
  Tensor bad = hashed("bad", {4, 5});
  bad.data<double>()[7] = std::numeric_limits<double>::quiet_NaN();
  const std::vector<NamedWeight> weights = {{"good.weight", hashed("good", {4, 5})},
                                            {"broken.weight", bad}};
  test::expect_parts(test::error_of<NonFiniteError>([&] { model_diversity(weights); }),
                     {"broken.weight"});
  const std::vector<NamedWeight> none = {{"bn1.weight", hashed("n", {4})}};
  EXPECT_THROW(model_diversity(none), Error);
}

TEST(Diversity, CalibratedScore) {
  EXPECT_NEAR(calibrated_imagenet_score(79.4, 0.2408), 19.12, 0.005);
}

TEST(Diversity, SyntheticResNet50HasItsShapes) {
  const std::vector<NamedWeight> weights = resnet50_weights();
  ASSERT_EQ(weights.size(), 53u);
  int64_t count = 0;
  for (const NamedWeight& weight : weights) {
    EXPECT_NE(layer_kind(weight.name, weight.value.shape()), LayerKind::none);
    count += weight.value.numel();
  }
  EXPECT_EQ(count, 23454912);  // torchvision's resnet50 without norms and classifier
}

}  // namespace
}  // namespace facet
