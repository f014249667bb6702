// MAE: masks, the loss's and the whole network's golden values, training.
#include "ssl/mae.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "nn/init.h"
#include "tests/fill.h"
#include "tests/gradcheck.h"

namespace facet {
namespace {

using namespace test;

TEST(MaeMask, KeepsAQuarterWithEqualChances) {
  const int64_t images = 400, patches = 196;
  const MaeMask mask = MaeMask::random(images, patches, .75, {3, 4});
  EXPECT_EQ(mask.kept.rows.numel(), images * 49);
  EXPECT_EQ(mask.masked_at.numel(), images * 147);
  EXPECT_EQ(mask.visible.numel(), images * 50);
  std::vector<double> counts(196, 0.0);
  const auto rows = mask.kept.rows.to_vector<int64_t>(),
             places = mask.kept.places.to_vector<int64_t>();
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i], static_cast<int64_t>(i) / 49 * 196 + places[i]);
    counts[static_cast<size_t>(places[i])] += 1;
  }
  double chi_squared = 0;  // 195 degrees of freedom; uniform draws without return vary less
  for (const double n : counts) chi_squared += (n - 100) * (n - 100) / 100;
  EXPECT_LT(chi_squared, 195 + 4 * std::sqrt(2 * 195.0));
  EXPECT_GT(chi_squared, 60);
  // Kept and masked patches are all patches.
  const auto patches_at = mask.patches_at.to_vector<int64_t>();
  std::set<int64_t> all(rows.begin(), rows.end());
  all.insert(patches_at.begin(), patches_at.end());
  EXPECT_EQ(all.size(), static_cast<size_t>(images * patches));
  EXPECT_THROW(MaeMask::random(2, 4, 0.0, {}), Error);
  EXPECT_THROW(MaeMask::random(2, 4, 0.9, {}), Error);
}

TEST(MaeLoss, Golden) {
  // The official layout: images (N, 3, H, W), patches (p, q, c).
  const Tensor images = ops::permute(wave({2, 3, 4, 4}, .5), {0, 2, 3, 1});
  const Tensor masked = Tensor::from<int64_t>({0, 2, 3, 5, 6, 7});
  Tensor other = images.clone();
  other.data<double>()[2 * 3] += 1;  // in patch 1, which is visible
  for (const Setting& at : settings()) {
    const Variable predicted(at(wave({2, 4, 12}, 1.5).reshape({8, 12})), true);
    const auto loss = [&](const Tensor& target, bool norm_pix) {
      return mae_loss(gather_rows(predicted, at(masked)), at(target), 2, at(masked), norm_pix);
    };
    for (const Tensor& target : {images, other}) {
      at.near(loss(target, false).value(), {.83389101744}, 1e-10);
      at.near(loss(target, true).value(), {1.20765352956}, 1e-10);
    }
    backward(loss(images, true));
    for (const int64_t patch : {1, 4})
      EXPECT_EQ(values(predicted.grad().narrow(patch, 1)), std::vector<double>(12, 0.0));
  }
  const Variable x(wave({6, 12}, 1.5), true);
  EXPECT_EQ(gradcheck([&] { return mae_loss(x, images, 2, masked, true); }, {x}), "");
}

TEST(MaeLoss, PatchesAreReadAsTheOfficialOnes) {
  std::vector<double> values(3 * 32 * 32);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i);
  const Tensor image = ops::permute(Tensor::from(values, {1, 3, 32, 32}), {0, 2, 3, 1});
  const auto got = patchify(image, 16).narrow(1, 1).to_vector<double>();
  EXPECT_EQ((std::vector<double>{got[0], got[1], got[2], got[3]}),
            (std::vector<double>{16, 1040, 2064, 17}));
}

TEST(MaeLoss, Anchors) {
  const Tensor images = hashed("images", {2, 32, 32, 3});
  const Tensor at = Tensor::from<int64_t>({0, 1, 2, 3, 4, 5, 6, 7});
  const Variable zero(Tensor::zeros({8, 768}, DType::f64));
  EXPECT_NEAR(mae_loss(zero, images, 16, at, true).item(), 767.0 / 768.0, 1e-5);
  EXPECT_EQ(mae_loss(Variable(patchify(images, 16)), images, 16, at, false).item(), 0.0);
}

TEST(Mae, ParameterCount) {
  Mae mae(std::make_unique<Vit>(VitOptions{.position = VitOptions::Position::sincos}), {});
  EXPECT_EQ(parameter_count(mae), 111907840);
}

std::unique_ptr<Mae> small_mae(const MaeOptions& more = {}) {
  MaeOptions options = more;
  options.decoder_width = 16;
  options.decoder_depth = 1;
  options.decoder_heads = 2;
  auto mae = std::make_unique<Mae>(
      std::make_unique<Vit>(VitOptions{.arch = "vit_tiny",
                                       .patch = 4,
                                       .image_size = 16,
                                       .width = 24,
                                       .depth = 2,
                                       .heads = 2,
                                       .position = VitOptions::Position::sincos,
                                       .init = VitOptions::Init::xavier}),
      options);
  initialize(*mae, 3);
  mae->begin(3);
  return mae;
}
Batch batch_of(const Tensor& images) {
  return {{images}, Tensor::zeros({images.dim(0)}, DType::i64), {}};
}

TEST(Mae, VisiblePatchesAreNotGuessedAndMaskedOnesNotSeen) {
  const auto mae = small_mae({.norm_pix = false});
  Batch batch = batch_of(hashed_images("input", 3, 16, DType::f32));
  mae->prepare(batch, 7);
  const NoGrad none;
  const MaeMask mask = MaeMask::from_tensors(batch.extra);
  auto& vit = dynamic_cast<Vit&>(mae->encoder());
  const auto encoded = [&](const Tensor& images) {
    return vit.tokens(Variable(images), mask.kept).value().to_vector<float>();
  };
  // Pixel (0, 0) of a masked patch of image 0 is changed: the encoder does not see it.
  const int64_t place = mask.patches_at.to_vector<int64_t>()[0];
  Tensor other = batch.views[0].clone();
  other.data<float>()[(place / 4 * 4 * 16 + place % 4 * 4) * 3] += 1.0f;
  EXPECT_EQ(encoded(other), encoded(batch.views[0]));
  const auto loss = [&](const Tensor& images) {
    Batch changed = batch;
    changed.views[0] = images;
    return mae->loss(changed, 7).item();
  };
  EXPECT_NE(loss(other), loss(batch.views[0]));
}

TEST(Mae, CollapseIsWhatZerosGetOnThisBatch) {
  const auto mae = small_mae();
  EXPECT_NEAR(mae->collapse_loss(3), 47.0 / 48.0, 1e-12);
  Batch batch = batch_of(hashed_images("input", 3, 16, DType::f32));
  batch.views[0].narrow(1, 1).fill_(.5);  // one picture of three is flat: its targets are 0
  mae->prepare(batch, 7);
  mae->loss(batch, 7);
  EXPECT_NEAR(mae->collapse_loss(3), 2.0 / 3.0 * 47.0 / 48.0, 1e-4);
}

TEST(Mae, AnotherMaskEachStepTheSameWhenRepeated) {
  const auto mae = small_mae();
  const auto mask = [&](int64_t step) {
    Batch batch = batch_of(Tensor::zeros({2, 16, 16, 3}));
    mae->prepare(batch, step);
    return batch.extra[0].to_vector<int64_t>();
  };
  EXPECT_EQ(mask(1), mask(1));
  EXPECT_NE(mask(1), mask(2));
}

TEST(Mae, LearnsAFewPictures) {
  const auto mae = small_mae({.norm_pix = false});
  Optimizer optimizer({.algorithm = Algorithm::adamw, .beta2 = .95}, mae->groups(0.0));
  // Waves of one period and many phases and directions: what is masked follows from the rest.
  Tensor images = Tensor::zeros({32, 16, 16, 3});
  for (int64_t i = 0; i < images.numel(); ++i) {
    const int64_t image = i / 768, y = i / 48 % 16, x = i / 3 % 16;
    images.data<float>()[i] = static_cast<float>(
        std::sin(.3 * static_cast<double>(image % 2 ? x : y) + static_cast<double>(image)));
  }
  double first = 0, last = 0;
  constexpr int64_t kSteps = 750;
  for (int64_t step = 0; step < kSteps; ++step) {
    Batch batch = batch_of(images);
    mae->prepare(batch, step);
    last = mae->train_step(batch, optimizer, 4e-6 * static_cast<double>(kSteps - step), step);
    if (step == 0) first = last;
  }
  EXPECT_GT(first, .4);
  EXPECT_LT(last, .02);
  for (const NamedParameter& p : parameters(*mae))
    EXPECT_EQ(p.value.grad().defined(), !p.name.ends_with("pos_embed")) << p.name;
}

TEST(Mae, RefusesWhatDoesNotFit) {
  EXPECT_THROW(small_mae({.mask_ratio = 0.0}), UsageError);
  const auto mae = small_mae();
  EXPECT_THROW(mae->loss(batch_of(Tensor::zeros({2, 16, 16, 3})), 0), Error);
}

}  // namespace
}  // namespace facet
