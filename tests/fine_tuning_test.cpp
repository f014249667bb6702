// What training with labels has beside label injection: many labels a picture, layer decay.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "nn/init.h"
#include "nn/resnet.h"
#include "nn/vit.h"
#include "ssl/supervised.h"
#include "tests/generators.h"

namespace facet {
namespace {

// Values of the authors' AsymmetricLoss (with its focal factor detached) in f64.
TEST(AsymmetricLoss, IsTheAuthors) {
  const Tensor y = Tensor::from<double>({1, 0, 0, 1, 0, 0, 0, 1, 0, 1}).reshape({2, 5});
  const struct {
    AsymmetricOptions options;
    double loss;
    std::vector<double> gradient;  // of the first row
  } cases[] = {
      {{},
       6.52384480355,
       {-.191812366351, .254905094623, .321564194697, -.0494372875497, .325313278074}},
      {{4, 1, .05},
       5.99301455199,
       {-.0367919838853, .254905094623, .321564194697, -.00244404540027, .325313278074}},
      {{2, 0, 0},
       10.1580350354,
       {-.191812366351, .602794262358, .760880201264, -.0494372875497, .804852874873}},
      {{0, 0, 0},
       12.6535196089,
       {-.191812366351, .844739955861, .912932695777, -.0494372875497, .930191071418}},
  };
  for (const auto& c : cases) {
    Variable x(ops::affine(3, test::wave({2, 5}, .5), 0), true);
    const Variable loss = asymmetric_loss(x, y, c.options);
    backward(loss);
    EXPECT_NEAR(loss.value().item(), c.loss, 1e-9);
    test::expect_near(x.grad(), c.gradient, 1e-10);
  }
  EXPECT_THROW(asymmetric_loss(Variable(test::wave({2, 4}, .5)), y), Error);
  // Certain logits stay finite, right and wrong.
  Variable far(Tensor::from<double>({90, -90, 90, -90}).reshape({1, 4}), true);
  const Variable loss = asymmetric_loss(far, Tensor::from<double>({1, 0, 0, 1}).reshape({1, 4}));
  backward(loss);
  EXPECT_TRUE(std::isfinite(loss.value().item()));
  for (const double g : far.grad().to_vector<double>()) EXPECT_TRUE(std::isfinite(g));
}

TEST(Supervised, LearnsAFewPicturesByHeart) {
  Supervised method(std::make_unique<Vit>(VitOptions{
                        .patch = 4, .image_size = 8, .width = 24, .depth = 2, .heads = 2}),
                    8);
  initialize(method, 1);
  Optimizer optimizer({.algorithm = Algorithm::adamw}, method.groups(0));
  const Batch batch{{hashed_images("x", 32, 8, DType::f32)}, test::labels_modulo(32, 8), {}};
  double last = 0;
  for (int64_t step = 0; step < 200; ++step) last = method.train_step(batch, optimizer, 3e-3, step);
  EXPECT_LT(last, .01);
}

// The scales of MAE's fine-tuning of ViT-B, decay .65; no decay of vectors, token and positions.
TEST(LayerDecay, IsMaes) {
  Supervised method(std::make_unique<Vit>(VitOptions{
                        .patch = 4, .image_size = 8, .width = 8, .depth = 12, .heads = 2}),
                    3);
  method.set_layer_decay(.65);
  std::map<std::string, std::pair<double, double>> by_name;  // scale, decay
  for (const ParamGroup& group : method.groups(.05))
    for (const NamedParameter& p : group.parameters)
      EXPECT_TRUE(by_name.try_emplace(p.name, group.lr_scale, group.weight_decay).second) << p.name;
  EXPECT_EQ(by_name.size(), parameters(method).size());
  const auto expect = [&](const std::string& name, double scale, double decay) {
    ASSERT_TRUE(by_name.contains(name)) << name;
    EXPECT_NEAR(by_name[name].first, scale, 5e-9) << name;
    EXPECT_EQ(by_name[name].second, decay) << name;
  };
  expect("encoder.cls_token", .00369721, 0);
  expect("encoder.pos_embed", .00369721, 0);
  expect("encoder.patch_embed.proj.weight", .00369721, .05);
  expect("encoder.blocks.0.attn.qkv.weight", .00568801, .05);
  expect("encoder.blocks.0.attn.qkv.bias", .00568801, 0);
  expect("encoder.blocks.6.mlp.fc1.weight", .07541889, .05);
  expect("encoder.blocks.11.norm1.weight", .65, 0);
  expect("encoder.norm.weight", 1, 0);
  expect("classifier.weight", 1, .05);

  method.set_layer_decay(1);
  EXPECT_LE(method.groups(.05).size(), 5u);
  Supervised residual(std::make_unique<ResNet>(ResNetOptions{.arch = "resnet18", .width = 4}), 3);
  residual.set_layer_decay(.65);
  EXPECT_THROW(residual.groups(.05), UsageError);
}

}  // namespace
}  // namespace facet
