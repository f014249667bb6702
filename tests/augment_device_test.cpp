// Views that a device makes are the CPU's, bit for bit: every operation and every named pipeline,
// pictures of odd sizes, tuned kernels and naive ones; and the loader's batches.
#include <gtest/gtest.h>

#include "data/loader.h"
#include "data/policy.h"
#include "tests/op_runner.h"
#include "tests/pictures.h"

#if defined(FACET_CUDA)
#include "cuda/runtime.h"
#endif

namespace facet {
namespace {

using Kind = ImageOpKind;

const std::vector<std::pair<int, int>> kSizes = {{1, 1}, {7, 5}, {33, 31}, {375, 500}, {2000, 3}};

struct Pictures {
  std::vector<uint8_t> pixels;
  std::vector<ViewPlan> plans;

  void add(const Image& image, ViewPlan plan) {
    plan.offset = static_cast<int64_t>(pixels.size());
    pixels.insert(pixels.end(), image.pixels.begin(), image.pixels.end());
    plans.push_back(plan);
  }
};

// The views on every device and by every choice of kernels, as u8, f32 and bf16.
void expect_equal(const Pictures& pictures, const ChannelScale& scale) {
  const Tensor pixels =
      Tensor::from(pictures.pixels, {static_cast<int64_t>(pictures.pixels.size())});
  for (const DType dtype : {DType::u8, DType::f32, DType::bf16}) {
    const Tensor want = ops::augment(pixels, pictures.plans, scale, dtype);
    for (const Device device : test::other_devices()) {
      const auto check = [&] {
        const Tensor got = ops::augment(pixels.to(device), pictures.plans, scale, dtype);
        EXPECT_EQ(got.to_vector<float>(), want.to_vector<float>()) << name(dtype);
      };
      check();
#if defined(FACET_CUDA)
      const cuda::KernelChoice before = cuda::kernel_choice();
      cuda::set_kernel_choice(cuda::KernelChoice::naive);
      check();
      cuda::set_kernel_choice(before);
#endif
    }
  }
}

TEST(AugmentDevice, EveryOperation) {
  constexpr int kSize = 35;  // more than one block's rows
  for (const auto& size : kSizes) {
    const int height = size.first, width = size.second;
    SCOPED_TRACE(fmt::format("{}x{}", height, width));
    const Image image = test::scrambled(height, width);
    Pictures pictures;
    const auto add_view = [&](Filter filter, std::initializer_list<ImageOp> ops) {
      ViewPlan plan = ViewPlan::whole(height, width);
      plan.resized_height = plan.resized_width = kSize;
      plan.view = {0, 0, kSize, kSize};
      plan.filter = filter;
      for (const ImageOp& op : ops) add(plan, op);
      pictures.add(image, plan);
    };
    add_view(Filter::bilinear, {});
    add_view(Filter::bicubic, {});
    for (int kind = 0; kind < static_cast<int>(Kind::sharpness); ++kind)
      for (const float value : {0.f, .37f, 1.f, 1.71f, 6.f})
        add_view(Filter::bilinear, {{.kind = static_cast<Kind>(kind), .value = value}});
    add_view(Filter::bilinear, {{.kind = Kind::flip}, {.kind = Kind::gray}, {.kind = Kind::flip}});
    for (const float sigma : {.1f, .7f, 1.9f, 12.f})
      add_view(Filter::bicubic, {{.kind = Kind::blur, .value = blur_radius(sigma)}});
    for (const float turn : {25.f, 101.f, 231.f})
      add_view(Filter::bicubic, {{.kind = Kind::hue, .value = turn}});
    expect_equal(pictures, Pipeline(kSize, kImagenetNormalization, {}).scale());
  }
}

// Those of policies, at the ends and in the middle of their levels and beyond, in whole pictures of
// odd sizes; what follows them, and flips, which may not pass them by.
TEST(AugmentDevice, EveryOperationOfPolicies) {
  const auto op = [](Kind kind, float share = -.27f, Filter filter = Filter::bicubic) -> ImageOp {
    const float value = kind == Kind::rotate ? 100 * share : share;
    return {kind, filter, {124, 116, 104}, kind == Kind::sharpness ? 1 + 2 * share : value};
  };
  for (const auto& [height, width] : {std::pair{1, 1}, {1, 5}, {3, 2}, {19, 33}, {67, 5}}) {
    SCOPED_TRACE(fmt::format("{}x{}", height, width));
    Pictures pictures;
    const auto add_view = [&, h = height, w = width](std::initializer_list<ImageOp> ops) {
      Image flat(h, w), dark = test::scrambled(h, w);
      for (uint8_t& v : flat.pixels) v = 77;
      for (uint8_t& v : dark.pixels) v = static_cast<uint8_t>(31 + v / 5);
      ViewPlan plan = ViewPlan::whole(h, w);
      for (const ImageOp& each : ops) add(plan, each);
      for (const Image& image : {test::scrambled(h, w), flat, dark}) pictures.add(image, plan);
    };
    for (int kind = static_cast<int>(Kind::equalize); kind < static_cast<int>(Kind::cutout); ++kind)
      for (const Filter filter : {Filter::bilinear, Filter::bicubic})
        for (const float share : {0.f, .09f, -.27f, .3f, .45f, -1.f})
          add_view({op(static_cast<Kind>(kind), share, filter)});
    const ImageOp flip, contrast = op(Kind::contrast, .3f), invert = op(Kind::invert);
    const ImageOp blur = op(Kind::blur, 1.3f), turn = op(Kind::rotate), sharp = op(Kind::sharpness);
    const ImageOp equal = op(Kind::equalize), stretch = op(Kind::autocontrast);
    ImageOp box = op(Kind::cutout);
    box.box[2] = static_cast<int16_t>((height + 1) / 2);
    box.box[3] = static_cast<int16_t>((width + 1) / 2);
    add_view({flip, box, flip, invert, flip});
    add_view({turn, flip, contrast, turn});
    add_view({sharp, flip, sharp, contrast});
    add_view({equal, flip, contrast, equal, invert, blur});
    add_view({blur, stretch, equal, flip, turn, blur, box, flip});
    expect_equal(pictures, Pipeline(1, kImagenetNormalization, {}).scale());
  }
}

TEST(AugmentDevice, EveryPipeline) {
  const Normalization n = kImagenetNormalization;
  const auto labels = [&](const PipelineStep& policy) {
    return Pipeline(40, n,
                    {random_resized_crop(40, .08, 1, {}), random_flip(), random_cutout(.5), policy,
                     color_jitter(.4, .4, .4, .1, .8), random_blur(.5, .1, 2)});
  };
  const std::vector<Pipeline> pipelines = {
      labels(rand_augment()),
      labels(rand_augment(6, 2, 4)),
      labels(auto_augment()),
      swav_pipeline(40, n, .08, 1),
      small_pipeline(40, n, .08, 1, Filter::bicubic, false),
      small_pipeline(40, n, .3, 1, Filter::bilinear, true),
      moco_v2_pipeline(40, n),
      swav_pipeline(40, n, .05, .14),
      dino_pipeline(40, n, DinoView::global1, .4, 1),
      dino_pipeline(40, n, DinoView::global2, .4, 1),
      dino_pipeline(40, n, DinoView::local, .05, .4),
      mae_pipeline(40, n),
      supcon_pipeline(40, n),
      supervised_pipeline(40, n),
      eval_pipeline(40, n),
      eval_pipeline(40, n, .875),
  };
  for (const Pipeline& pipeline : pipelines) {
    const auto number = &pipeline - pipelines.data();
    SCOPED_TRACE(number);
    const uint64_t draws = number < 3 ? 6 : 2;  // policies choose among many operations
    Pictures pictures;
    for (const auto& [height, width] : kSizes)
      for (uint64_t draw = 0; draw < draws; ++draw)
        pictures.add(test::scrambled(height, width),
                     pipeline.plan(height, width, RandomSequence({draw, 3})));
    expect_equal(pictures, pipeline.scale());
    // A plan is what the pipeline itself does.
    const Image image = test::scrambled();
    std::vector<float> want(40 * 40 * 3);
    normalize(pipeline.view(image, RandomSequence({9, 3})), pipeline.scale(), want.data());
    Pictures one;
    one.add(image, pipeline.plan(image.height, image.width, RandomSequence({9, 3})));
    const Tensor pixels = Tensor::from(one.pixels, {static_cast<int64_t>(one.pixels.size())});
    EXPECT_EQ(ops::augment(pixels, one.plans, pipeline.scale()).to_vector<float>(), want);
  }
}

// Values computed with Pillow: a ramp resized, an impulse blurred, colours.
TEST(AugmentDevice, PillowsGoldenValues) {
  Pictures ramps;
  Image ramp(8, 8);
  for (int k = 0; k < 64; ++k) std::fill_n(ramp.at(k / 8, k % 8), 3, static_cast<uint8_t>(4 * k));
  for (const Filter filter : {Filter::bilinear, Filter::bicubic}) {
    ViewPlan plan = ViewPlan::whole(8, 8);
    plan.resized_height = plan.resized_width = 3;
    plan.view = {0, 0, 3, 3};
    plan.filter = filter;
    ramps.add(ramp, plan);
  }
  Pictures impulses;
  for (const float sigma : {.5f, 1.f, 2.f}) {
    Image impulse(21, 21);
    std::fill_n(impulse.at(10, 10), 3, uint8_t{255});
    ViewPlan plan = ViewPlan::whole(21, 21);
    add(plan, {.kind = Kind::blur, .value = blur_radius(sigma)});
    impulses.add(impulse, plan);
  }
  Pictures colours;
  Image two(1, 2);
  two.pixels = {200, 100, 50, 10, 20, 30};
  for (const ImageOp& op : {ImageOp{.kind = Kind::contrast, .value = .6f},
                            ImageOp{.kind = Kind::brightness, .value = 1.4f},
                            ImageOp{.kind = Kind::saturation, .value = .6f},
                            ImageOp{.kind = Kind::hue, .value = hue_turn(-.1)}}) {
    ViewPlan plan = ViewPlan::whole(1, 2);
    add(plan, op);
    colours.add(two, plan);
  }
  // 3 of Pillow's rounded product, 2 of a fused one.
  two.pixels = {0, 0, 0, 200, 200, 200};
  ViewPlan rounded = ViewPlan::whole(1, 2);
  add(rounded, {.kind = Kind::contrast, .value = .97f});
  colours.add(two, rounded);
  std::vector<Device> devices = test::other_devices();
  devices.emplace_back();
  for (const Device device : devices) {
    const auto views = [&](const Pictures& p) {
      const Tensor pixels = Tensor::from(p.pixels, {static_cast<int64_t>(p.pixels.size())});
      return ops::augment(pixels.to(device), p.plans, {}, DType::u8).to_vector<int32_t>();
    };
    const auto reds = [](const std::vector<int>& values, size_t first, size_t count) {
      std::vector<int> red;
      for (size_t i = first; i < first + count; ++i) red.push_back(values[3 * i]);
      return red;
    };
    const std::vector<int> r = views(ramps), i = views(impulses), c = views(colours);
    EXPECT_EQ(reds(r, 0, 9), (std::vector<int>{39, 49, 59, 116, 126, 136, 193, 203, 213}));
    EXPECT_EQ(reds(r, 9, 9), (std::vector<int>{33, 43, 53, 116, 126, 136, 199, 209, 219}));
    const size_t row = 10 * 21, all = 21 * 21;
    EXPECT_EQ(reds(i, row + 8, 5), (std::vector<int>{1, 21, 154, 21, 1}));
    EXPECT_EQ(reds(i, all + row + 7, 7), (std::vector<int>{1, 6, 24, 42, 24, 6, 1}));
    EXPECT_EQ(reds(i, 2 * all + row + 5, 11), (std::vector<int>{1, 2, 4, 6, 8, 9, 8, 6, 4, 2, 1}));
    EXPECT_EQ(std::vector<int>(c.begin(), c.begin() + 9),
              (std::vector<int>{148, 88, 58, 34, 40, 46, 255, 140, 70}));
    EXPECT_EQ(std::vector<int>(c.begin() + 12, c.begin() + 15), (std::vector<int>{169, 109, 79}));
    EXPECT_EQ(std::vector<int>(c.begin() + 18, c.begin() + 21), (std::vector<int>{200, 50, 85}));
    EXPECT_EQ(c[24], 3);
  }
}

LoaderOptions loader_options(std::optional<Device> views_on) {
  LoaderOptions options;
  options.views = {
      swav_pipeline(12, kHalfNormalization, .08, 1),
      {20, kHalfNormalization, {resize_to(20, Filter::bilinear), random_flip(), rand_augment()}}};
  options.batch_size = 5;
  options.workers = 1;
  options.views_on = views_on;
  return options;
}

TEST(AugmentDevice, LoaderLeavesTheViewsToTheDevice) {
  const DatasetPtr dataset = open_dataset("shapes:train=12", Split::train);
  std::vector<Device> devices = test::other_devices();
  devices.emplace_back();
  for (const Device device : devices) {
    DataLoader here(dataset, loader_options({})), there(dataset, loader_options(device));
    while (const auto want = here.next()) {
      const auto planned = there.next();
      ASSERT_TRUE(planned && planned->views.empty());
      EXPECT_EQ(planned->pixels.device(), device);
      const Batch got = planned->to(device);
      ASSERT_EQ(got.views.size(), want->views.size());
      for (size_t v = 0; v < got.views.size(); ++v)
        EXPECT_EQ(got.views[v].to_vector<float>(), want->views[v].to_vector<float>());
      EXPECT_EQ(got.labels.to_vector<int64_t>(), want->labels.to_vector<int64_t>());
    }
  }
}

TEST(AugmentDevice, OneStepCropsAndComesFirst) {
  const Pipeline twice(4, kHalfNormalization,
                       {resize_to(6, Filter::bilinear), resize_to(4, Filter::bilinear)});
  EXPECT_THROW(twice.plan(9, 9, RandomSequence({1, 1})), Error);
  const Pipeline late(4, kHalfNormalization, {random_gray(1), resize_to(4, Filter::bilinear)});
  EXPECT_THROW(late.plan(9, 9, RandomSequence({1, 1})), Error);
  ViewPlan full = ViewPlan::whole(1, 1);
  for (int i = 0; i < ViewPlan::kMaxOps; ++i) add(full, {});
  EXPECT_THROW(add(full, {}), Error);
}

}  // namespace
}  // namespace facet
