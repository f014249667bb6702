// Vision transformers: names and counts as timm's, position embeddings, drop path. Their golden
// values are in goldens_test.
#include "nn/vit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "nn/init.h"
#include "tensor/text.h"
#include "tests/fill.h"

namespace facet {
namespace {

using test::norm;

TEST(Vit, HasTimmsNames) {
  Vit net({.arch = "vit_tiny", .depth = 2, .num_classes = 5});
  const std::vector<std::string> names = names_of(state(net));
  const std::vector<std::string> expected = {"cls_token", "pos_embed", "patch_embed.proj.weight",
                                             "patch_embed.proj.bias"};
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), names.begin()));
  std::map<std::string, Shape> shapes;
  for (const NamedTensor& t : state(net)) shapes[t.name] = t.value.shape();
  EXPECT_EQ(shapes.at("pos_embed"), (Shape{1, 197, 192}));
  EXPECT_EQ(shapes.at("blocks.1.attn.qkv.weight"), (Shape{576, 192}));
  EXPECT_EQ(shapes.at("blocks.0.mlp.fc2.bias"), (Shape{192}));
  EXPECT_EQ(shapes.at("head.weight"), (Shape{5, 192}));
}

TEST(Vit, ParameterCounts) {
  Vit base({.num_classes = 1000});
  EXPECT_EQ(parameter_count(base), 86567656);
  EXPECT_EQ(state(base).size(), 152u);
  Vit small({.arch = "vit_small"});
  EXPECT_EQ(parameter_count(small), 21665664);
  Vit tiny({.arch = "vit_tiny"});
  EXPECT_EQ(parameter_count(tiny), 5524416);
}

TEST(Vit, SincosEmbedding) {
  const Tensor table = sincos_position_embedding(14, 768);
  EXPECT_EQ(table.shape(), (Shape{197, 768}));
  const auto at = [&](int64_t row, int64_t col, int64_t i) {
    return table.data<double>()[(1 + row * 14 + col) * 768 + i];
  };
  EXPECT_EQ(norm(table.narrow(0, 1)), 0.0);
  EXPECT_NEAR(at(0, 1, 0), .8414709848, 1e-10);
  EXPECT_NEAR(at(0, 1, 1), .8152506497, 1e-10);
  EXPECT_NEAR(at(0, 1, 192), .5403023059, 1e-10);
  EXPECT_NEAR(at(1, 0, 384), .8414709848, 1e-10);
  EXPECT_NEAR(at(3, 5, 0), -.9589242747, 1e-10);
  EXPECT_NEAR(at(3, 5, 202), -.9989067840, 1e-10);
  EXPECT_NEAR(at(3, 5, 384), .1411200081, 1e-10);
  EXPECT_NEAR(at(3, 5, 394), .9593514801, 1e-10);
  EXPECT_NEAR(at(3, 5, 586), -.2822139928, 1e-10);
  const Tensor decoder = sincos_position_embedding(14, 512);
  EXPECT_NEAR(decoder.data<double>()[(1 + 3 * 14 + 5) * 512 + 128], .2836621855, 1e-10);
}

TEST(Vit, BicubicRowsSumToOneAndKeepTheirGrid) {
  for (const auto& [rows, scale] : {std::pair{6, 14 / 6.1}, {24, 14.0 / 24}, {14, 1.0}}) {
    const Tensor m = bicubic_matrix(rows, 14, scale);
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int64_t c = 0; c < 14; ++c) {
        const double w = m.data<double>()[r * 14 + c];
        sum += w;
        if (scale == 1.0) {
          EXPECT_NEAR(w, r == c ? 1.0 : 0.0, 1e-15);
        }
      }
      EXPECT_NEAR(sum, 1.0, 1e-14);
    }
  }
}

VitOptions small_options() {
  return {.arch = "vit_tiny", .patch = 4, .image_size = 16, .width = 24, .depth = 3, .heads = 2};
}

TEST(Vit, EncodesKeptPatchesAsTheyAre) {
  // Attention does not know an order: all patches, shuffled, give the same class token.
  Vit net(small_options());
  initialize(net, 1);
  const NoGrad no_grad;
  const Variable x(hashed_images("input", 2, 16, DType::f32));
  std::vector<int64_t> rows, places;
  for (int64_t image = 0; image < 2; ++image)
    for (int64_t i = 0; i < 16; ++i) {
      places.push_back((i * 5 + image) % 16);
      rows.push_back(image * 16 + places.back());
    }
  const KeptPatches kept{Tensor::from(rows, {32}), Tensor::from(places, {32})};
  const auto first = [](const Variable& tokens) {
    return ops::narrow(tokens.value().reshape({2, 17, 24}), 0, 1, 1).to_vector<float>();
  };
  const auto got = first(net.tokens(x, kept)), want = first(net.tokens(x));
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-5);
}

// Features leave out what the last block makes of the patches, which nobody sees.
TEST(Vit, FeaturesAndTheirGradientsAreThoseOfTheClassToken) {
  VitOptions options = small_options();
  options.drop_path = 0.5;
  Vit net(options);
  initialize(net, 1);
  const Variable x(hashed_images("input", 4, 16, DType::f32));
  std::map<std::string, std::vector<float>> all[2];
  for (const bool tokens : {false, true}) {
    net.set_random_key(RandomKey{5});
    clear_grads(net);
    const Variable y = tokens
                           ? reshape(narrow(reshape(net.tokens(x), {4, 17, 24}), 0, 1, 1), {4, 24})
                           : net.features(x);
    backward(sum(y * y * y));
    all[tokens]["y"] = y.value().to_vector<float>();
    for (const NamedParameter& p : parameters(net))
      all[tokens][p.name] = p.value.grad().to_vector<float>();
  }
  for (const auto& [name, want] : all[1])
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(all[0].at(name)[i], want[i], 1e-4) << name;
}

TEST(Vit, MeanPoolHasANormOfItsOwn) {
  VitOptions options = small_options();
  options.pool = VitOptions::Pool::mean;
  Vit net(options);
  initialize(net, 1);
  const std::vector<std::string> names = names_of(state(net));
  EXPECT_EQ(names.back(), "fc_norm.bias");
  EXPECT_EQ(std::count(names.begin(), names.end(), "norm.weight"), 0);
  const Variable y = net.features(Variable(hashed_images("input", 3, 16, DType::f32)));
  EXPECT_EQ(y.shape(), (Shape{3, 24}));
}

TEST(Vit, DropPathDropsBranchesOfWholeImagesAndKeepsTheirMean) {
  VitOptions options = small_options();
  options.drop_path = 0.5;
  Vit net(options);
  initialize(net, 1);
  const NoGrad no_grad;
  const Variable x(hashed_images("input", 4, 16, DType::f32));
  const auto run = [&](uint64_t key) {
    net.set_random_key({key, 0});
    return net.features(x).value().to_vector<float>();
  };
  net.train();
  const auto a = run(1);
  EXPECT_EQ(a, run(1));
  EXPECT_NE(a, run(2));
  EXPECT_NE(a, net.features(x).value().to_vector<float>());  // the second forward of its step
  net.eval();
  EXPECT_EQ(run(1), run(2));
}

TEST(Vit, InitializesAsTimmAndAsMae) {
  Vit timm(small_options());
  initialize(timm, 3);
  VitOptions options = small_options();
  options.init = VitOptions::Init::xavier;
  options.position = VitOptions::Position::sincos;
  Vit mae(options);
  initialize(mae, 3);
  const auto deviation = [](const Tensor& t) {
    return norm(t) / std::sqrt(static_cast<double>(t.numel()));
  };
  EXPECT_NEAR(deviation(test::tensor_of(timm, "blocks.0.mlp.fc1.weight")), .02, .002);
  EXPECT_NEAR(deviation(test::tensor_of(timm, "pos_embed")), .02, .003);
  EXPECT_NEAR(deviation(test::tensor_of(mae, "blocks.0.mlp.fc1.weight")),
              std::sqrt(2.0 / (24 + 96)), .01);
  EXPECT_EQ(norm(test::tensor_of(timm, "blocks.0.attn.qkv.bias")), 0.0);
  EXPECT_EQ(norm(ops::sub(test::tensor_of(mae, "pos_embed").reshape({17, 24}).cast(DType::f64),
                          sincos_position_embedding(4, 24).cast(DType::f32).cast(DType::f64))),
            0.0);
}

TEST(Vit, RefusesWhatDoesNotFit) {
  EXPECT_THROW(Vit({.arch = "vit_huge"}), UsageError);
  EXPECT_THROW(Vit({.image_size = 100}), UsageError);
  EXPECT_THROW(Vit({.width = 100, .heads = 3}), UsageError);
  EXPECT_THROW(Vit({.drop_path = 1.0}), UsageError);
  Vit net(small_options());
  EXPECT_THROW(net.features(Variable(Tensor::zeros({1, 18, 18, 3}))), Error);
}

}  // namespace
}  // namespace facet
