// CUDA as the rest of facet sees it, on a GPU where there is one and in the emulator elsewhere:
// memory, errors, and training steps that give the CPU's losses.
#include <gtest/gtest.h>

#include "cuda/runtime.h"
#include "nn/init.h"
#include "ssl/simclr.h"
#include "ssl/supervised.h"

namespace facet {
namespace {

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

// Losses of three steps.
template <typename Make>
std::vector<double> losses(const Make& make, size_t views, Device device) {
  const auto objective = make();
  initialize(*objective, 5);
  to_device(*objective, device);
  Optimizer optimizer({}, objective->groups(1e-4));
  Batch batch;
  for (size_t v = 0; v < views; ++v)
    batch.views.push_back(ops::random_normal({8, 12, 12, 3}, {3, v}));
  batch.labels = Tensor::from<int64_t>({0, 1, 2, 3, 4, 0, 1, 2});
  batch.indices = batch.labels;
  batch = batch.to(device);
  std::vector<double> result;
  for (int64_t step = 0; step < 3; ++step)
    result.push_back(objective->train_step(batch, optimizer, 0.05, step));
  return result;
}

template <typename Make>
void expect_the_cpus_losses(const Make& make, size_t views) {
  const std::vector<double> want = losses(make, views, Device{}), got = losses(make, views, kCuda);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-4 * want[i]) << i;
}

std::unique_ptr<ResNet> small_network() {
  return std::make_unique<ResNet>(
      ResNetOptions{.arch = "resnet18", .stem = Stem::small, .width = 4});
}

TEST_F(CudaTest, SupervisedStepsGiveTheCpusLosses) {
  expect_the_cpus_losses([] { return std::make_unique<Supervised>(small_network(), 5, 0.1); }, 1);
}

TEST_F(CudaTest, SimclrStepsGiveTheCpusLosses) {
  expect_the_cpus_losses(
      [] { return std::make_unique<Simclr>(small_network(), SimclrOptions{.temperature = 0.5}); },
      2);
}

}  // namespace
}  // namespace facet
