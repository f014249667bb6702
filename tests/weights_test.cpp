// Whose checkpoint it is: every layout of the table from a state dict made up for it, what does not
// fit is said in three lists, and the commands on such files.
#include "apps/weights.h"

#include <gtest/gtest.h>

#include <cstring>

#include "apps/evaluate.h"
#include "apps/machine.h"
#include "apps/methods.h"
#include "nn/init.h"
#include "tensor/npy.h"
#include "tensor/pytorch.h"
#include "tests/fill.h"
#include "tests/program.h"

namespace facet {
namespace {

using Shaped = std::vector<NamedTensor>;

Shaped state_in_file_layout(Encoder& encoder) {
  initialize(encoder, 3);
  return to_file_layout(state(encoder));
}

Shaped small_resnet() {
  ResNet network({.arch = "resnet18", .width = 4});
  return state_in_file_layout(network);
}

Shaped small_vit(VitOptions::Pool pool = VitOptions::Pool::token) {
  Vit network({.arch = "vit_tiny", .patch = 4, .image_size = 8, .depth = 2, .pool = pool});
  return state_in_file_layout(network);
}

Shaped with(Shaped tensors, const std::string& prefix, const Shaped& more = {}) {
  for (NamedTensor& tensor : tensors) tensor.name = prefix + tensor.name;
  tensors.insert(tensors.end(), more.begin(), more.end());
  return tensors;
}

NamedTensor extra(const std::string& name, const Shape& shape = {3}) {
  return {name, Tensor::full(shape, 0.5)};
}

Shaped renamed(Shaped tensors, const std::vector<std::pair<std::string, std::string>>& renames) {
  for (NamedTensor& tensor : tensors)
    for (const auto& [from, to] : renames)
      if (const size_t at = tensor.name.find(from); at != std::string::npos)
        tensor.name.replace(at, from.size(), to);
  return tensors;
}

class WeightsTest : public ProgramTest {
 protected:
  std::string save(const Shaped& tensors, const std::string& name = "w.pth") const {
    std::vector<PackedTensor> packed;
    for (const auto& [key, value] : tensors)
      packed.push_back({key,
                        &file_type_of(value.dtype()),
                        {value.shape().begin(), value.shape().end()},
                        {static_cast<const std::byte*>(value.raw()), value.bytes()}});
    save_pytorch(path(name), packed);
    return path(name);
  }
  // The network comes back, whatever surrounds it.
  void expect_layout(const std::string& layout, const Shaped& tensors, const Shaped& network,
                     size_t dropped, bool head = false) {
    SCOPED_TRACE(layout);
    const WeightsFile file(save(tensors));
    const MappedWeights mapped = map_weights(file);
    EXPECT_EQ(mapped.mapping, layout);
    EXPECT_EQ(mapped.problems(), "");
    EXPECT_FALSE(mapped.unfit);
    EXPECT_EQ(mapped.dropped.size(), dropped);
    EXPECT_EQ(mapped.has_head, head);
    const Shaped loaded = to_file_layout(load_mapped(file, mapped));
    for (const NamedTensor& expected : network) {
      const auto found = std::find_if(loaded.begin(), loaded.end(), [&](const NamedTensor& t) {
        return t.name == expected.name;
      });
      ASSERT_NE(found, loaded.end()) << expected.name;
      ASSERT_EQ(found->value.shape(), expected.value.shape()) << expected.name;
      EXPECT_EQ(std::memcmp(found->value.raw(), expected.value.raw(), expected.value.bytes()), 0)
          << expected.name;
    }
  }
};

TEST_F(WeightsTest, EveryLayoutOfAResNet) {
  const Shaped r = small_resnet();
  const NamedTensor weight = extra("fc.weight", {10, 32}), bias = extra("fc.bias", {10});
  expect_layout("torchvision", with(r, "", {weight, bias}), r, 0, true);
  expect_layout("torchvision", r, r, 0);
  // data parallel, compiled, both; an averaged copy is preferred
  const Shaped head = {weight, bias};
  expect_layout("torchvision", with(with(r, "", head), "state_dict.module."), r, 0, true);
  expect_layout("torchvision", with(with(r, "", head), "model._orig_mod.module."), r, 0, true);
  expect_layout("torchvision",
                with(with(r, "", head), "state_dict_ema.",
                     with(renamed(r, {{"layer1", "layer9"}}), "state_dict.")),
                r, 0, true);
  expect_layout("moco",
                with(r, "state_dict.module.encoder_q.",
                     with(r, "state_dict.module.encoder_k.",
                          {extra("state_dict.module.encoder_q.fc.0.weight", {32, 32}),
                           extra("state_dict.module.encoder_q.fc.2.bias"),
                           extra("state_dict.module.queue", {8, 16}),
                           extra("optimizer.state.0.momentum_buffer")})),
                r, r.size() + 3);
  expect_layout("moco", with(r, "encoder_q.", {extra("queue")}), r, 1);
  expect_layout("swav",
                with(r, "module.",
                     {extra("module.projection_head.0.weight"), extra("module.prototypes.weight")}),
                r, 2);
  expect_layout("dino",
                with(r, "teacher.backbone.",
                     with(r, "student.module.backbone.",
                          {extra("teacher.head.mlp.0.weight"), extra("dino_loss.center")})),
                r, 1);
  expect_layout("supcon", with(r, "model.encoder.module.", {extra("model.head.0.weight")}), r, 1);
  expect_layout("supcon", renamed(with(r, "model.encoder."), {{"downsample", "shortcut"}}), r, 0);
  expect_layout("vissl",
                with(r, "classy_state_dict.base_model.model.trunk._feature_blocks.",
                     {extra("classy_state_dict.base_model.model.heads.0.weight")}),
                r, 0);
  expect_layout(
      "solo-learn",
      with(r, "state_dict.backbone.",
           with(r, "state_dict.momentum_backbone.",
                {extra("state_dict.projector.0.bias"), extra("state_dict.classifier.bias")})),
      r, r.size() + 2);
  expect_layout("solo-learn", with(r, "state_dict.encoder.", {extra("state_dict.classifier.bias")}),
                r, 1);
  expect_layout(
      "lightly",
      with(r, "state_dict.backbone.", {extra("state_dict.projection_head.layers.0.bias")}), r, 1);
  expect_layout("simclr-tf", with(with(r, "", {weight}), "state_dict."), r, 0, true);
  // anybody's own names, as long as it is one network
  expect_layout("prefix", with(with(r, "", head), "state_dict.net.model."), r, 0, true);
  EXPECT_THROW(map_weights(WeightsFile(save(with(r, "a.", with(r, "b."))))), FileError);
  // children of an nn.Sequential, and the same once more under moco.
  const Shaped indexed =
      renamed(r, {{"layer1.", "4."}, {"layer2.", "5."}, {"layer3.", "6."}, {"layer4.", "7."}});
  Shaped islam;
  for (const NamedTensor& tensor : indexed)
    islam.push_back(
        {"state_dict.feature." + (tensor.name.starts_with("conv1.") ? "0." + tensor.name.substr(6)
                                  : tensor.name.starts_with("bn1.") ? "1." + tensor.name.substr(4)
                                                                    : tensor.name),
         tensor.value});
  islam.push_back(extra("state_dict.base_head.weight"));
  islam.push_back(extra("state_dict.moco.encoder_q.0.0.weight"));
  expect_layout("islam", islam, r, 2);
}

// solo-learn's networks for small pictures pad two pixels, here and in what is written.
TEST_F(WeightsTest, TheStemOfSoloLearn) {
  ResNet padded({.arch = "resnet18", .stem = Stem::padded, .width = 4});
  const Shaped r = state_in_file_layout(padded);
  const std::string file =
      save(with(r, "state_dict.backbone.", {extra("state_dict.classifier.bias")}));
  const Tensor x = Tensor::full({2, 8, 8, 3}, .5);
  padded.eval();
  const std::vector<float> expected = padded.features(Variable(x)).value().to_vector<float>();
  ASSERT_EQ(run({"convert", file, "--map", "-o", path("s.safetensors")}).code, 0);
  for (const std::string& from : {file, path("s.safetensors")}) {
    const TrainedNetwork network = load_network(from);
    EXPECT_EQ(network.encoder->features(Variable(x)).value().to_vector<float>(), expected) << from;
    save_network(path("again.safetensors"), *network.encoder, {}, {}, {});
    EXPECT_EQ(std::get<ResNetOptions>(load_network(path("again.safetensors")).architecture).stem,
              Stem::padded);
  }
}

TEST_F(WeightsTest, EveryLayoutOfAVit) {
  const Shaped v = small_vit(), m = small_vit(VitOptions::Pool::mean);
  const NamedTensor weight = extra("head.weight", {5, 192}), bias = extra("head.bias", {5});
  expect_layout("timm", with(v, "", {weight, bias}), v, 0, true);
  expect_layout("timm", with(with(v, "", {weight, bias}), "state_dict."), v, 0, true);
  expect_layout(
      "dino", with(v, "teacher.module.backbone.", {extra("teacher.module.head.mlp.0.bias")}), v, 1);
  expect_layout("mae", with(v, "model."), v, 0);
  expect_layout("mae",
                with(v, "model.",
                     {extra("model.mask_token"), extra("model.decoder_embed.weight"),
                      extra("model.decoder_blocks.0.norm1.weight")}),
                v, 3);
  expect_layout("mae", with(with(m, "", {weight, bias}), "model."), m, 0, true);
  const Shaped torchvision = renamed(v, {{"cls_token", "class_token"},
                                         {"patch_embed.proj.", "conv_proj."},
                                         {"pos_embed", "encoder.pos_embedding"},
                                         {"blocks.", "encoder.layers.encoder_layer_"},
                                         {"norm1.", "ln_1."},
                                         {"norm2.", "ln_2."},
                                         {"attn.qkv.", "self_attention.in_proj_"},
                                         {"attn.proj.", "self_attention.out_proj."},
                                         {"mlp.fc1.", "mlp.0."},
                                         {"mlp.fc2.", "mlp.3."}});
  Shaped whole = torchvision;
  for (NamedTensor& tensor : whole)
    if (tensor.name.starts_with("norm.")) tensor.name = "encoder.ln." + tensor.name.substr(5);
  whole.push_back({"heads.head.weight", weight.value});
  whole.push_back({"heads.head.bias", bias.value});
  expect_layout("timm", whole, v, 0, true);
}

// Blocks of zeros let through what torch's bicubic interpolation makes of 2 x 2 positions on 4 x 4.
TEST_F(WeightsTest, PositionsAreResizedAsTheirAuthorsDo) {
  Shaped v = small_vit();
  for (NamedTensor& t : v)
    t.value = t.name == "pos_embed" ? test::wave({1, 5, 192}, .5).cast(DType::f32)
                                    : Tensor::zeros(t.value.shape());
  const std::vector<double> plain = {-1.151823869, .62167814, .923827145, 1.127725243},
                            dino = {-1.153254441, .632795873, .911626862, 1.118749675};
  for (const auto& [tensors, want] : {std::pair{with(v, "model."), plain},
                                      {with(v, "", {extra("head.weight", {5, 192})}), plain},
                                      {with(v, ""), dino},
                                      {with(v, "teacher.backbone."), dino}}) {
    const TrainedNetwork network = load_network(save(tensors));
    const Tensor y = network.encoder->stages(Variable(Tensor::zeros({1, 16, 16, 3})))[1].value();
    for (size_t i = 0; const int at : {192, 1159, 2404, 3263})  // patches 0, 5, 11 and 15
      EXPECT_NEAR(y.data<float>()[at], want[i++], 1e-6);
  }
}

// Photographs of 300 x 200: the shorter side to 256 and the centre, as the official codes do.
TEST(Evaluation, PhotographsAsTheOfficialCodes) {
  TrainedNetwork network;
  const auto plan = [&](const char* method, const char* crop, const char* interpolation) {
    network.metadata = {{"facet.method", method}};
    return evaluation_pipeline(network, crop, interpolation).plan(200, 300, RandomSequence({}));
  };
  for (const char* method : {"moco", "swav", "dino", "mae", "supervised"}) {
    const ViewPlan p = plan(method, "auto", "auto");
    EXPECT_TRUE(p.resized_height == 256 && p.resized_width == 384 && p.view.left == 80) << method;
    EXPECT_EQ(p.filter == Filter::bilinear, method[1] == 'o' || method[1] == 'w') << method;
  }
  EXPECT_EQ(plan("dino", "squash", "bilinear").filter, Filter::bilinear);
  EXPECT_EQ(plan("dino", "squash", "bilinear").resized_width, 224);
  EXPECT_EQ(test_view(28, {}, "dino").plan(200, 300, RandomSequence({})).resized_width, 28);
}

TEST(Methods, TakeBaseTemperatureAndZeroResiduals) {
  const auto supcon = make_objective({.method = "supcon"}, {.zero_init_residual = true}, {}, 1);
  EXPECT_NEAR(supcon->collapse_loss(8), .1 / .07 * std::log(15.0), 1e-12);
  EXPECT_EQ(*test::tensor_of(supcon->encoder(), "layer1.0.bn2.weight").data<float>(), 0.0f);
}

TEST(Normalization, SwavsOwnOnPhotographs) {
  TrainedNetwork network;
  network.metadata = {{"facet.start", "swav"}, {"facet.data", "imagenet:x"}};
  const float of_others = kImagenetNormalization.std[0];
  EXPECT_NEAR(evaluation_pipeline(network).scale().scale[0] * .228f / of_others,
              eval_pipeline(8, kImagenetNormalization).scale().scale[0], 1e-6f);
  EXPECT_EQ(normalization_for("imagenet:x", "moco").std[0], of_others);
  EXPECT_EQ(normalization_for("cifar10:x", "swav").std, kCifar10Normalization.std);
}

TEST_F(WeightsTest, WhatDoesNotFitIsSaidInThreeLists) {
  const Shaped r = small_resnet();
  Shaped bad;
  for (const NamedTensor& tensor : r) {
    if (tensor.name == "layer1.0.conv1.weight") continue;
    if (tensor.name.ends_with("num_batches_tracked")) continue;  // old files lack them
    bad.push_back(tensor.name == "layer4.1.bn2.bias" ? extra(tensor.name, {7}) : tensor);
  }
  bad.push_back(extra("layer1.0.conv3.bias"));
  bad.push_back(extra("another_head.weight"));
  const WeightsFile file(save(bad));
  const MappedWeights mapped = map_weights(file);
  EXPECT_TRUE(mapped.unfit);
  EXPECT_EQ(mapped.missing, std::vector<std::string>{"layer1.0.conv1.weight"});
  EXPECT_EQ(mapped.mismatched,
            std::vector<std::string>{"layer4.1.bn2.bias (expected (32), got (7))"});
  EXPECT_EQ(mapped.unexpected,
            (std::vector<std::string>{"another_head.weight", "layer1.0.conv3.bias"}));
  EXPECT_THROW(load_mapped(file, mapped), FileError);
  EXPECT_THROW(load_network(path("w.pth")), FileError);

  // A head that nobody knows is passed over; a block too many is another network.
  EXPECT_NO_THROW(load_network(save(with(r, "", {extra("another_head.weight")}))));
  EXPECT_THROW(load_network(save(with(r, "", {extra("layer3.2.conv1.weight")}))), FileError);
  EXPECT_THROW(load_network(save(with(small_vit(), "", {extra("blocks.0.ls1.gamma")}))), FileError);
  EXPECT_THROW(load_network(save(with(small_vit(), "", {extra("dist_token")}))), FileError);
  EXPECT_THROW(load_network(save({extra("state_dict.module.linear.weight")})), FileError);
  EXPECT_THROW(load_network(save(r), {}, "resnet34"), FileError);
  EXPECT_THROW(load_network(save(r), {}, "vit_tiny"), FileError);
}

TEST_F(WeightsTest, AFileCannotAskForANetworkFarLargerThanItself) {
  expect_error({"inspect", path("none")}, 3, {"none"});
  const auto refused = [&](const Shaped& tensors, const char* words) {
    test::expect_parts(test::error_of<FileError>([&] { map_weights(WeightsFile(save(tensors))); }),
                       {words});
  };
  refused({extra("conv1.weight", {4096, 1, 7, 7})}, "needs");
  refused({extra("conv1.weight", {0, 3, 7, 7})}, "is empty");
  refused({extra("patch_embed.proj.weight", {192, 3, 0, 4}), extra("pos_embed", {1, 5, 192})}, "");
}

TEST_F(WeightsTest, CommandsOnACheckpoint) {
  const Shaped r = small_resnet();
  const NamedTensor weight = extra("fc.weight", {10, 32}), bias = extra("fc.bias", {10});
  const std::string file = save(with(with(r, "", {weight, bias}), "state_dict.module."));
  const Outcome inspected = run({"inspect", file, "--json"});
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  const Json json = Json::parse(inspected.out);
  EXPECT_EQ(json["container"], "zip");
  EXPECT_EQ(json["mapping"], "torchvision");
  EXPECT_EQ(json["arch"], "resnet18");
  EXPECT_EQ(json["tensors"].size(), r.size() + 2);
  const Json& first = json["tensors"]["state_dict.module.conv1.weight"];
  EXPECT_EQ(first["dtype"], "F32");
  EXPECT_EQ(first["shape"], Json({4, 3, 7, 7}));
  EXPECT_EQ(first["sha256"].get<std::string>().size(), 64u);
  EXPECT_NE(run({"inspect", file, "--stats"}).out.find("mean"), std::string::npos);

  save_npy(path("x.npy"), Tensor::full({3, 32, 32, 3}, 0.25));
  const auto features = [&](const std::string& from, const std::string& to, const char* more) {
    std::vector<std::string> arguments = {"features", "--weights",    from,
                                          "--input",  path("x.npy"),  "--output",
                                          path(to),   "--batch-size", "2"};
    if (*more) arguments.push_back(more);
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return load_npy(path(to));
  };
  const Tensor y = features(file, "y.npy", "");
  EXPECT_EQ(y.shape(), (Shape{3, 32}));
  const Tensor logits = features(file, "l.npy", "--logits");
  ASSERT_EQ(logits.shape(), (Shape{3, 10}));
  double sum = 0.5;  // every weight and bias of the head is 0.5
  for (const double value : y.narrow(0, 1).to_vector<double>()) sum += 0.5 * value;
  EXPECT_NEAR(logits.to_vector<double>()[0], sum, 1e-4 * (1 + std::abs(sum)));

  for (const char* to : {"safetensors", "pth", "npz"}) {
    const std::string out = path(std::string("out.") + to);
    EXPECT_EQ(run({"convert", file, "--to", to, "-o", out, "--map"}).code, 0);
    const WeightsFile converted(out);
    EXPECT_EQ(converted.content().tensors.size(), r.size() + 2);
    EXPECT_NE(converted.find("layer1.0.conv1.weight"), nullptr);
    EXPECT_EQ(features(out, "z.npy", "").to_vector<float>(), y.to_vector<float>());
  }
  // A number whose MD5 begins as that of MAE's ViT-B.
  write_file(path("mae"), std::string("6\0\0\0\0\0\0\0", 8) +
                              R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}40285265)");
  EXPECT_EQ(Json::parse(run({"inspect", path("mae"), "--strict", "--json"}).out)["published"],
            "MAE ViT-B");
  expect_error({"inspect", FACET_SOURCE_DIR "/tests/fixtures/hostile/long-record", "--strict"}, 3,
               {"28 bytes", "strict"});
  const Outcome diversity = run({"diversity", file, "--json"});
  ASSERT_EQ(diversity.code, 0) << diversity.err;
  EXPECT_EQ(Json::parse(diversity.out)["layers"][0]["name"], "conv1.weight");

  const std::string headless = save(r, "headless.pth");
  expect_error({"features", "--weights", headless, "--input", path("x.npy"), "--output",
                path("z.npy"), "--logits"},
               3, {"headless.pth", "no classifier"});
  expect_error({"features", "--weights", headless}, 2, {"--input"});
  expect_error({"convert", headless}, 2, {"-o OUTPUT"});
}

}  // namespace
}  // namespace facet
