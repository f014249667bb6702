// CUDA as the rest of facet sees it, on a GPU where there is one and in the emulator elsewhere:
// memory, errors, and training steps that give the CPU's losses.
#include <gtest/gtest.h>
#if defined(FACET_CUDA_EMULATED)
#include <nvtx3/nvToolsExt.h>

#include "cuda/emu/runtime.h"
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include "apps/train_step.h"
#include "cuda/backend.h"
#include "cuda/runtime.h"
#include "cuda/trace.h"
#include "nn/init.h"
#include "ssl/dino.h"
#include "ssl/label_injection.h"
#include "ssl/mae.h"
#include "ssl/moco.h"
#include "ssl/simclr.h"
#include "ssl/supcon.h"
#include "ssl/supervised.h"
#include "ssl/swav.h"
#include "tests/fill.h"
#include "tests/folder.h"

namespace facet {
namespace {

using test::small_resnet;

const Device kCuda{DeviceType::cuda, 0};

class CudaTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { cuda::install(); }
};

TEST_F(CudaTest, TensorsGoThereAndBack) {
  const Tensor x = ops::random_normal({33, 7}, {1, 2});
  const Tensor there = x.to(kCuda);
  EXPECT_EQ(there.str(), "f32 (33, 7) on cuda:0");
  EXPECT_EQ(there.to_vector<float>(), x.to_vector<float>());
  EXPECT_EQ(ops::affine(2.0, there, 0.0).to_vector<float>(),
            ops::affine(2.0, x, 0.0).to_vector<float>());
  EXPECT_EQ(there.narrow(3, 5).cast(DType::f64).to_vector<double>(),
            x.narrow(3, 5).cast(DType::f64).to_vector<double>());
}

TEST_F(CudaTest, MixedDevicesAreRefused) {
  const Tensor here = Tensor::zeros({4}), there = Tensor::zeros({4}, DType::f32, kCuda);
  EXPECT_THROW(ops::add(here, there), Error);
}

// bf16 rounds the sum that is normalised: the op table compares the other types only.
TEST_F(CudaTest, AddedLayerNormInBf16) {
  const auto input = [](uint64_t stream) {
    return ops::random_normal({9, 40}, {7, stream}).cast(DType::bf16);
  };
  const Tensor x = input(1), residual = input(2), gamma = ops::random_normal({40}, {7, 3}),
               beta = ops::random_normal({40}, {7, 4});
  for (const auto choice : {cuda::KernelChoice::tuned, cuda::KernelChoice::naive}) {
    cuda::set_kernel_choice(choice);
    const ops::LayerNorm want = ops::layer_norm(x, residual, gamma, beta, 1e-6);
    const ops::LayerNorm got =
        ops::layer_norm(x.to(kCuda), residual.to(kCuda), gamma.to(kCuda), beta.to(kCuda), 1e-6);
    cuda::set_kernel_choice(cuda::KernelChoice::vendor);
    EXPECT_EQ(got.sum.to_vector<double>(), want.sum.to_vector<double>());
    const auto a = got.y.to_vector<double>(), b = want.y.to_vector<double>();
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 0x1p-7 * (1 + std::fabs(b[i])));
  }
}

TEST_F(CudaTest, ReleasedMemoryIsUsedAgain) {
  cuda::empty_cache(0);
  const auto make = [] { return Tensor::empty({1000, 1000}, DType::f32, kCuda); };
  const void* first = make().raw();
  const cuda::MemoryStatistics before = cuda::memory_statistics(0);
  EXPECT_GE(before.cached, size_t{4000000});
  EXPECT_EQ(make().raw(), first);
  EXPECT_EQ(cuda::memory_statistics(0).device_allocations, before.device_allocations);
  cuda::empty_cache(0);
  EXPECT_EQ(cuda::memory_statistics(0).cached, 0u);
}

// The copy waits in the other device's stream while the source's memory is written again.
TEST_F(CudaTest, ACopyToAnotherDeviceKeepsItsSource) {
  if (cuda::device_count() < 2) GTEST_SKIP() << "one device only";
  const auto full = [](double value) { return Tensor::full({9}, value, DType::f32, kCuda); };
  const Tensor there = full(3.0).to({DeviceType::cuda, 1});
  EXPECT_EQ(full(7.0).to_vector<float>(), std::vector<float>(9, 7.0f));
  EXPECT_EQ(there.to_vector<float>(), std::vector<float>(9, 3.0f));
}

// The memory is that of a tensor whose work is still to be done.
TEST_F(CudaTest, WhatIsSentWaitsForItsMemory) {
  const std::vector<float> values(9, 7.0f);
  Tensor doubled;
  const void* before = nullptr;
  {
    const Tensor x = Tensor::full({9}, 3.0, DType::f32, kCuda);
    before = x.raw();
    doubled = ops::affine(2.0, x, 0.0);
  }
  const Tensor sent = Tensor::from(values, {9}).sent_to(kCuda);
  EXPECT_EQ(sent.raw(), before);
  EXPECT_EQ(sent.to_vector<float>(), values);
  EXPECT_EQ(doubled.to_vector<float>(), std::vector<float>(9, 6.0f));
}

// A recording takes all that its stream is given, of whatever thread: who sends waits for its end.
TEST_F(CudaTest, OthersDoNotSendWhileAStepIsRecorded) {
  const std::vector<float> values(300, 7.0f);
  const Tensor x = Tensor::full({300}, 0.5, DType::f32, kCuda);
  std::atomic<bool> asked = false;
  Tensor sent, y;
  std::string error;
  std::thread other([&] {
    while (!asked) std::this_thread::yield();
    try {
      sent = Tensor::from(values, {300}).sent_to(kCuda);
    } catch (const std::exception& e) {
      error = e.what();
    }
  });
  cuda::Graph graph(0);
  graph.record([&] {
    y = ops::exp(x);
    asked = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    y = ops::exp(y);
  });
  other.join();
  EXPECT_EQ(error, "");
  graph.replay();
  EXPECT_NEAR(y.to_vector<float>()[299], std::exp(std::exp(0.5)), 1e-5);
  EXPECT_EQ(sent.to_vector<float>(), values);
}

// Losses of three steps.
template <typename Make>
std::vector<double> losses(const Make& make, size_t views, Device device) {
  const auto objective = make();
  initialize(*objective, 5);
  objective->begin(5);
  to_device(*objective, device);
  Optimizer optimizer({}, objective->groups(1e-4));
  Batch batch;
  for (size_t v = 0; v < views; ++v)
    batch.views.push_back(ops::random_normal({8, 12, 12, 3}, {3, v}));
  batch.labels = Tensor::from<int64_t>({0, 1, 2, 3, 4, 0, 1, 2});
  batch.indices = batch.labels;
  std::vector<double> result;
  for (int64_t step = 0; step < 3; ++step) {
    objective->prepare(batch, step);
    result.push_back(objective->train_step(batch.to(device), optimizer, 0.05, step, 0.0));
  }
  return result;
}

template <typename Make>
void expect_the_cpus_losses(const Make& make, size_t views) {
  const std::vector<double> want = losses(make, views, Device{}), got = losses(make, views, kCuda);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-4 * want[i]) << i;
}

TEST_F(CudaTest, SupervisedStepsGiveTheCpusLosses) {
  expect_the_cpus_losses([] { return std::make_unique<Supervised>(small_resnet(), 5, 0.1); }, 1);
}

TEST_F(CudaTest, SimclrStepsGiveTheCpusLosses) {
  expect_the_cpus_losses(
      [] { return std::make_unique<Simclr>(small_resnet(), SimclrOptions{.temperature = 0.5}); },
      2);
}

TEST_F(CudaTest, SupconStepsGiveTheCpusLosses) {
  expect_the_cpus_losses(
      [] { return std::make_unique<Supcon>(small_resnet(), SupconOptions{}, 16); }, 2);
}

TEST_F(CudaTest, SwavStepsGiveTheCpusLosses) {
  const SwavOptions options{.prototypes = 12, .projection_dim = 16, .freeze_steps = 1, .queue = 16};
  expect_the_cpus_losses([&] { return std::make_unique<Swav>(small_resnet(), options); }, 3);
}

const MocoOptions kSmallMoco{.queue = 16, .projection_dim = 16, .splits = 2};

TEST_F(CudaTest, MocoStepsGiveTheCpusLosses) {
  expect_the_cpus_losses(
      [] { return std::make_unique<Moco>(small_resnet(), small_resnet(), kSmallMoco); }, 2);
}

TEST_F(CudaTest, CeSelfSupconStepsGiveTheCpusLosses) {
  expect_the_cpus_losses(
      [] {
        return std::make_unique<CeSelfSupcon>(small_resnet(), small_resnet(), 5,
                                              HybridOptions{.moco = kSmallMoco});
      },
      2);
}

VitOptions small_vit() {
  return {.arch = "vit_tiny", .patch = 4, .image_size = 12, .width = 32, .depth = 2, .heads = 2};
}
std::unique_ptr<Mae> small_mae() {
  VitOptions options = small_vit();
  options.position = VitOptions::Position::sincos;
  auto mae = std::make_unique<Mae>(
      std::make_unique<Vit>(options),
      MaeOptions{.decoder_width = 16, .decoder_depth = 1, .decoder_heads = 2});
  mae->begin(5);
  return mae;
}

TEST_F(CudaTest, MaeStepsGiveTheCpusLosses) {
  expect_the_cpus_losses([] { return small_mae(); }, 1);
}

TEST_F(CudaTest, DinoStepsGiveTheCpusLosses) {
  // Pictures smaller than the position embedding is for: it is resampled.
  VitOptions options = small_vit();
  options.image_size = 16;
  expect_the_cpus_losses(
      [&] {
        return std::make_unique<Dino>(
            std::make_unique<Vit>(options), std::make_unique<Vit>(options),
            DinoOptions{.out = 24, .hidden = 16, .bottleneck = 8, .freeze_epochs = 0});
      },
      2);
}

#if defined(FACET_CUDA_EMULATED)
TEST_F(CudaTest, TracedOperationsAreRanges) {
  Backend* const plain = install_backend(DeviceType::cuda, &cuda::traced(cuda_backend()));
  const Tensor x = Tensor::full({4}, 2.0, DType::f32, kCuda);
  EXPECT_EQ(ops::square(x).to_vector<float>(), std::vector<float>(4, 4.0f));
  EXPECT_THROW(x.backend().matmul(x, x, {}, {}, const_cast<Tensor&>(x)), std::exception);
  install_backend(DeviceType::cuda, plain);
  const std::vector<std::string>& names = emu::ranges().pushed;
  for (const char* name : {"fill", "unary", "matmul"})
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
  EXPECT_EQ(emu::ranges().open, 0);
}
#endif

// ---- recorded work

TEST_F(CudaTest, AGraphReplaysWorkOnNewInputs) {
  Tensor x = Tensor::from<float>({1, 2, 3}).to(kCuda), y;
  cuda::Graph graph(0);
  graph.record([&] {
    const Tensor three = Tensor::from<float>({3, 3, 3}).to(kCuda);
    y = ops::add(ops::mul(x, three), x);
  });
  x.copy_(Tensor::from<float>({10, 20, 30}));
  graph.replay();
  EXPECT_EQ(y.to_vector<float>(), (std::vector<float>{40, 80, 120}));
  // Memory of the graph is not handed out to others, though the product's tensor is gone.
  for (int i = 0; i < 8; ++i) {
    const Tensor other = Tensor::full({3}, 7.0, DType::f32, kCuda);
    x.fill_(i);
    graph.replay();
    EXPECT_EQ(y.to_vector<float>(), std::vector<float>(3, static_cast<float>(4 * i)));
    EXPECT_EQ(other.to_vector<float>(), std::vector<float>(3, 7.0f));
  }
}

TEST_F(CudaTest, WhatWaitsCannotBeRecorded) {
  Tensor x = Tensor::full({2}, 1.0, DType::f32, kCuda);
  cuda::Graph graph(0);
  test::expect_parts(test::error_of<Error>([&] { graph.record([&] { x.to_vector<float>(); }); }),
                     {"[copy]"});
  EXPECT_FALSE(graph.recorded());
  const Tensor matrix = Tensor::full({2, 2}, 1.0, DType::f32, kCuda);
  test::expect_parts(test::error_of<Error>([&] { graph.record([&] { ops::eigvalsh(matrix); }); }),
                     {"[eigvalsh]", "not recorded"});
  EXPECT_NEAR(ops::eigvalsh(matrix).to_vector<float>()[1], 2.0, 1e-5);
#if defined(FACET_CUDA_EMULATED)
  emu::plan_faults({.fail_host_allocation = 0});
  EXPECT_THROW(graph.record([] { Tensor::from<float>({1}).to(kCuda); }), cuda::CudaError);
#endif
  EXPECT_EQ(ops::affine(2.0, x, 0.0).to_vector<float>(), std::vector<float>(2, 2.0f));
}

#if defined(FACET_CUDA_EMULATED)
// Under the address sanitizer: nor events and pinned memory.
TEST_F(CudaTest, WhatCannotBeSentKeepsNoMemory) {
  const size_t before = cuda::memory_statistics(0).in_use;
  emu::plan_faults({.fail_launch = 0});
  Tensor::full({32}, 1.0, DType::f32, kCuda);
  for (const int64_t n : {32, 1 << 20})
    EXPECT_THROW(Tensor::zeros({n}).sent_to(kCuda), cuda::CudaError);
  EXPECT_EQ(cuda::memory_statistics(0).in_use, before);
  emu::reset();
}

TEST_F(CudaTest, NothingIsFreedWhileAGraphIsRecorded) {
  cuda::empty_cache(0);
  const auto make = [](int mib) { return Tensor::full({mib << 18}, 1.0, DType::f32, kCuda); };
  emu::machine().memory_bytes = cuda::memory_statistics(0).in_use + (size_t{10} << 20);
  Tensor old = make(2), y = make(8);
  y = {};
  cuda::Graph graph(0);
  graph.record([&] { y = make(6); });  // of the memory that was cached
  test::expect_parts(test::error_of<Error>([&] {
                       graph.record([&] {
                         old = {};
                         make(4);
                       });
                     }),
                     {"out of memory"});
  EXPECT_EQ(make(4).to_vector<float>().back(), 1.0f);
  emu::machine() = {};
}

TEST_F(CudaTest, ManySmallProductsAreLaunchedAtOnce) {
  const Tensor a = Tensor::empty({70000, 1, 1}, DType::f32, kCuda);
  cuda::set_kernel_choice(cuda::KernelChoice::tuned);
  EXPECT_NO_THROW(ops::matmul(a, a));
  for (const DType dtype : {DType::f32, DType::bf16})
    EXPECT_NO_THROW(ops::attention(Tensor::empty({70000, 1, 3, 1, 8}, dtype, kCuda), 1.0));
  cuda::set_kernel_choice(cuda::KernelChoice::vendor);
  emu::reset();  // not run, which would take seconds
}
#endif

// Losses of six steps, then metrics after each, then weights and counters at the end; the last two
// batches are smaller.
template <typename Make>
std::vector<double> trained(const Make& make, size_t views, const StepOptions& options,
                            int expected_replays) {
  const auto objective = make();
  initialize(*objective, 5);
  objective->begin(5);
  to_device(*objective, options.device);
  Optimizer optimizer({}, objective->groups(1e-4));
  TrainStep train_step(*objective, optimizer, options);
  std::vector<double> result, metrics;
  int replays = 0;
  for (int64_t step = 0; step < 6; ++step) {
    Batch batch;
    const int64_t size = step >= 4 ? 6 : 8;
    for (size_t v = 0; v < views; ++v)
      batch.views.push_back(
          ops::random_normal({size, 12, 12, 3}, {3, 10 * v + static_cast<uint64_t>(step)}));
    batch.labels = Tensor::from<int64_t>({0, 1, 2, 3, 4, 0, 1, 2}).narrow(0, size);
    batch.indices = batch.labels;
    const cuda::MemoryStatistics before = cuda::memory_statistics(0);
    result.push_back(train_step(batch, 0.05 / static_cast<double>(step + 1), step));
    replays += train_step.replays();
    for (const NamedMetric& metric : objective->metrics()) metrics.push_back(metric.value);
    const cuda::MemoryStatistics m = cuda::memory_statistics(0);
    EXPECT_TRUE(step != 5 || !train_step.replays() ||  // one recording at a time
                m.in_use + m.cached < before.in_use + before.cached);
  }
  EXPECT_EQ(replays, expected_replays);
  result.insert(result.end(), metrics.begin(), metrics.end());
  for (const NamedTensor& value : state(*objective))
    for (const double v : value.value.template to_vector<double>()) result.push_back(v);
  return result;
}

TEST_F(CudaTest, ReplayedStepsGiveTheBitsOfLaunchedOnes) {
  const auto supervised = [] { return std::make_unique<Supervised>(small_resnet(), 5, 0.1); };
  const auto simclr = [] { return std::make_unique<Simclr>(small_resnet(), SimclrOptions{}); };
  for (const DType precision : {DType::f32, DType::bf16}) {
    StepOptions options{.device = kCuda, .precision = precision, .clip = 1.0};
    StepOptions launched = options;
    launched.graph = false;
    EXPECT_EQ(trained(supervised, 1, options, 4), trained(supervised, 1, launched, 0));
    EXPECT_EQ(trained(simclr, 2, options, 4), trained(simclr, 2, launched, 0));
#if defined(FACET_CUDA_EMULATED)
    emu::plan_faults({.fail_instantiate = true});
    EXPECT_EQ(trained(simclr, 2, options, 0), trained(simclr, 2, launched, 0));
    emu::plan_faults({});
#endif
    EXPECT_EQ(trained(small_mae, 1, options, 4), trained(small_mae, 1, launched, 0));
  }
}

// A recording is left where a number of the host changes, and made anew or found again.
TEST_F(CudaTest, StepsOfOneKeyAreReplayed) {
  const auto expect_replays = [](const auto& make, size_t views, int replays) {
    StepOptions options{.device = kCuda, .clip = 1.0};
    const std::vector<double> replayed = trained(make, views, options, replays);
    options.graph = false;
    EXPECT_EQ(replayed, trained(make, views, options, 0));
  };
  const auto moco = [] {
    return std::make_unique<Moco>(small_resnet(), small_resnet(), kSmallMoco);
  };
  expect_replays(moco, 2, 4);
  // The queue is full after two batches.
  const SwavOptions queued{.prototypes = 12, .projection_dim = 16, .freeze_steps = 1, .queue = 16};
  expect_replays([&] { return std::make_unique<Swav>(small_resnet(), queued); }, 3, 3);
  // The teacher's temperature changes with the fourth step; the student drops paths.
  const DinoOptions warm{.out = 24,
                         .hidden = 16,
                         .bottleneck = 8,
                         .teacher_temperature = 0.07,
                         .temperature_epochs = 2,
                         .steps_per_epoch = 3};
  const auto vit = [](double drop_path) {
    VitOptions options = small_vit();
    options.drop_path = drop_path;
    return std::make_unique<Vit>(options);
  };
  expect_replays([&] { return std::make_unique<Dino>(vit(.5), vit(0), warm); }, 3, 3);
  // The third step is the backbone's, too; or none, and it is in eval mode.
  const auto inject = [](int64_t cycle) {
    return [=] {
      return std::make_unique<LabelInjection>(small_resnet(), 5, InjectionOptions{.cycle = cycle});
    };
  };
  expect_replays(inject(3), 1, 2);
  expect_replays(inject(0), 1, 4);
  const auto mixed = [] {
    auto made = std::make_unique<Supervised>(small_resnet(), 5, 0.1);
    made->set_mixed_training({.mix = {.mixup = 0.8, .cutmix = 1.0}, .erase = {.probability = 0.5}});
    return made;
  };
  expect_replays(mixed, 1, 4);
}

// f32 masters, bf16 activations: close to f32, and learning.
TEST_F(CudaTest, Bf16StepsFollowF32) {
  const auto supervised = [] { return std::make_unique<Supervised>(small_resnet(), 5, 0.1); };
  for (const Device device : {Device{}, kCuda}) {
    const StepOptions options{.device = device, .precision = DType::bf16, .graph = false};
    StepOptions plain = options;
    plain.precision = DType::f32;
    const auto got = trained(supervised, 1, options, 0), want = trained(supervised, 1, plain, 0);
    for (size_t step = 0; step < 6; ++step) EXPECT_NEAR(got[step], want[step], 0.05 * want[step]);
    EXPECT_NE(got, want);
  }
}

}  // namespace
}  // namespace facet
