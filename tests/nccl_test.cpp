// Ranks on several devices that talk by NCCL: on GPUs where there are two, in the emulator
// elsewhere. What one rank computes, two compute; whatever goes wrong on one ends on all.
#include <gtest/gtest.h>
#include <nccl.h>

#include <chrono>
#include <mutex>
#include <thread>

#include "cuda/runtime.h"
#include "cuda/vendor/comm.h"
#include "cuda/vendor/library.h"
#include "nn/init.h"
#include "nn/resnet.h"
#include "nn/vit.h"
#include "ssl/dino.h"
#include "ssl/moco.h"
#include "ssl/simclr.h"
#include "ssl/supcon.h"
#include "ssl/swav.h"
#include "tests/folder.h"
#if defined(FACET_CUDA_EMULATED)
#include "cuda/emu/runtime.h"
#endif

namespace facet {
namespace {

using test::error_of;
using test::expect_parts;

const std::vector<int> kTwo = {0, 1};

Device device_of(const Comm& comm) {
  return {DeviceType::cuda, comm.rank()};
}

class NcclTest : public testing::Test {
 protected:
  void SetUp() override {
#if defined(FACET_CUDA_EMULATED)
    emu::machine().devices = 3;
#endif
    cuda::install();
    if (cuda::device_count() < 2) GTEST_SKIP() << "one device only";
    if (cuda::vendor::comm_library().find("not found") != std::string::npos)
      GTEST_SKIP() << "NCCL was not found";
  }
#if defined(FACET_CUDA_EMULATED)
  void TearDown() override {
    emu::reset();
    emu::machine().devices = 3;
  }
#endif
};

TEST_F(NcclTest, SumsGathersAndBroadcasts) {
  std::vector<int> devices = kTwo;
  if (cuda::device_count() > 2) devices.push_back(2);
  const auto n = static_cast<double>(devices.size());
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64, DType::u8})
    cuda::run_ranks(devices, [&](Comm& comm) {
      EXPECT_EQ(comm.size(), static_cast<int>(devices.size()));
      const auto own = [&](const Shape& shape, double plus) {
        return Tensor::full(shape, comm.rank() + plus, dtype, device_of(comm));
      };
      TensorList tensors = {own({2, 3}, 1), own({1}, 0), own({0}, 0)};
      comm.all_reduce(std::span(tensors));
      EXPECT_EQ(tensors[0].to_vector<double>(), std::vector<double>(6, n * (n + 1) / 2));
      EXPECT_EQ(tensors[1].item(), n * (n - 1) / 2);
      const Tensor all = comm.all_gather(own({1, 2}, 0));
      EXPECT_EQ(all.shape(), Shape({comm.size(), 2}));
      for (int r = 0; r < comm.size(); ++r)
        EXPECT_EQ(all.narrow(r, 1).to_vector<double>(), std::vector<double>(2, r));
      Tensor last = own({1}, 5);
      comm.broadcast(last, comm.size() - 1);
      EXPECT_EQ(last.item(), n + 4);
      comm.barrier();
      comm.check();
    });
}

// Collectives are work in a stream, like what makes their inputs and takes their results.
TEST_F(NcclTest, NobodyWaits) {
  cuda::run_ranks(kTwo, [](Comm& comm) {
    if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    Tensor x = Tensor::full({8}, 1.0, DType::f32, device_of(comm));
    for (int i = 0; i < 10; ++i) {
      comm.all_reduce(x);
      ops::scale_(x, 0.75);
    }
    EXPECT_EQ(x.to_vector<float>(), std::vector<float>(8, 57.665039f));  // 1.5 ^ 10
  });
}

// ---- one rank = two ranks

using Make = std::function<std::unique_ptr<Objective>(int ranks)>;

// Losses of three steps, and parameters at the end, on the ranks' shares of eight samples.
struct Trained {
  std::vector<double> losses, weights;
};
Trained train_on(const std::vector<int>& devices, const Make& make, const std::vector<int>& sizes,
                 bool shared_norms) {
  Trained result;
  std::mutex mutex;
  const auto body = [&](Comm& comm) {
    const auto objective = make(comm.size());
    initialize(*objective, 5);
    objective->begin(5);
    objective->set_comm(comm);
    if (shared_norms) set_norm_comm(*objective, comm);
    to_device(*objective, device_of(comm));
    objective->train();
    Optimizer optimizer({}, objective->groups(1e-4));
    const int64_t share = 8 / comm.size();
    std::vector<double> losses;
    for (int64_t step = 0; step < 3; ++step) {
      Batch batch;
      for (size_t v = 0; v < sizes.size(); ++v)
        batch.views.push_back(
            ops::random_normal({8, sizes[v], sizes[v], 3},
                               {static_cast<uint64_t>(7 + step), static_cast<uint64_t>(v)})
                .narrow(comm.rank() * share, share)
                .clone());
      batch.labels =
          Tensor::from<int64_t>({0, 1, 2, 1, 0, 1, 2, 2}).narrow(comm.rank() * share, share);
      batch.indices = batch.labels;
      losses.push_back(
          objective->train_step(batch.to(device_of(comm)), optimizer, 0.02, step, 1.0));
    }
    const std::lock_guard lock(mutex);
    if (comm.rank() > 0) {
      if (!result.losses.empty()) {
        EXPECT_EQ(losses, result.losses);
      }
      return;
    }
    result.losses = losses;
    for (const NamedParameter& p : parameters(*objective))
      for (const float w : p.value.value().to_vector<float>()) result.weights.push_back(w);
  };
  if (devices.size() == 1)
    body(single_rank());
  else
    cuda::run_ranks(devices, body);
  return result;
}
void expect_two_are_one(const Make& make, const std::vector<int>& sizes, bool shared_norms = true) {
  const Trained one = train_on({0}, make, sizes, shared_norms);
  const Trained two = train_on(kTwo, make, sizes, shared_norms);
  for (size_t step = 0; step < one.losses.size(); ++step)
    EXPECT_NEAR(two.losses[step], one.losses[step], 5e-4 * std::fabs(one.losses[step])) << step;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < one.weights.size(); ++i) {
    difference += std::pow(two.weights[i] - one.weights[i], 2);
    norm += std::pow(one.weights[i], 2);
  }
  EXPECT_LT(std::sqrt(difference / norm), 1e-3);
}

std::unique_ptr<Encoder> resnet() {
  return std::make_unique<ResNet>(
      ResNetOptions{.arch = "resnet18", .stem = Stem::small, .width = 2});
}
std::unique_ptr<Encoder> vit() {
  return std::make_unique<Vit>(VitOptions{
      .arch = "vit_tiny", .patch = 4, .image_size = 8, .width = 16, .depth = 1, .heads = 2});
}

TEST_F(NcclTest, SimclrOnTwoDevicesIsOnOne) {
  expect_two_are_one(
      [](int) { return std::make_unique<Simclr>(resnet(), SimclrOptions{.projection_dim = 16}); },
      {8, 8});
}
TEST_F(NcclTest, SupconOnTwoDevicesIsOnOne) {
  expect_two_are_one([](int) { return std::make_unique<Supcon>(resnet(), SupconOptions{}, 16); },
                     {8, 8});
}
TEST_F(NcclTest, SwavOnTwoDevicesIsOnOne) {
  for (const int64_t queue : {0, 16})
    expect_two_are_one(
        [queue](int) {
          return std::make_unique<Swav>(
              resnet(), SwavOptions{.prototypes = 6, .projection_dim = 16, .queue = queue});
        },
        {8, 8, 4});
}
TEST_F(NcclTest, DinoOnTwoDevicesIsOnOne) {
  expect_two_are_one(
      [](int) {
        return std::make_unique<Dino>(
            vit(), vit(),
            DinoOptions{.out = 24, .hidden = 16, .bottleneck = 8, .freeze_epochs = 0});
      },
      {8, 8, 4});
}
// Ranks are the splits that one rank plays; keys are shuffled over them.
TEST_F(NcclTest, MocoOnTwoDevicesIsTwoSplitsOnOne) {
  expect_two_are_one(
      [](int ranks) {
        return std::make_unique<Moco>(
            resnet(), resnet(),
            MocoOptions{.queue = 16, .projection_dim = 16, .splits = 2 / ranks});
      },
      {8, 8}, false);
}

// ---- what goes wrong

TEST_F(NcclTest, AnErrorOfOneStopsAll) {
  // Rank 0 waits on its device for the one that does not come.
  const auto body = [](Comm& comm) {
    comm.barrier();
    if (comm.rank() == 1) throw UsageError("rank 1 cannot");
    Tensor x = Tensor::full({4}, 1.0, DType::f32, device_of(comm));
    comm.all_reduce(x);
    x.narrow(0, 1).item();
    comm.check();
    ADD_FAILURE() << "rank 0 took what was never added up";
  };
  EXPECT_EQ(error_of<Error>([&] { cuda::run_ranks(kTwo, body); }), "rank 1 cannot");
}

TEST_F(NcclTest, DifferentCallsAreNamed) {
  const auto body = [](Comm& comm) {
    Tensor x = Tensor::full({4, 3}, 1.0, DType::f32, device_of(comm));
    if (comm.rank() == 0)
      comm.all_reduce(x);
    else
      comm.all_gather(x.narrow(0, 2));
    comm.barrier();
  };
  expect_parts(error_of<Error>([&] { cuda::run_ranks(kTwo, body); }),
               {"all_reduce of 12 f32 values in 1 tensors", "all_gather of 6 f32 values", "rank 0",
                "rank 1"});
}

TEST_F(NcclTest, AMissingRankIsNamed) {
  const auto body = [](Comm& comm) {
    comm.barrier();
    if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(400));
    comm.barrier();
  };
  expect_parts(error_of<Error>([&] { cuda::run_ranks(kTwo, body, 0.1); }),
               {"rank 1 on cuda:1 did not come for 0.", "rank 0 waits in call 2, all_reduce of 1"});
}

TEST_F(NcclTest, ARankThatEndedIsNamed) {
  const auto body = [](Comm& comm) {
    comm.barrier();
    if (comm.rank() == 0) comm.barrier();
  };
  expect_parts(error_of<Error>([&] { cuda::run_ranks(kTwo, body); }),
               {"rank 1 ended after 1 calls, rank 0 waits in call 2, all_reduce"});
}

TEST_F(NcclTest, TensorsElsewhereAreRefused) {
  for (const Device device : {Device{}, Device{DeviceType::cuda, 1}})
    expect_parts(error_of<Error>([&] {
                   cuda::run_ranks(kTwo, [&](Comm& comm) {
                     Tensor x = Tensor::zeros({2}, DType::f32, device);
                     if (comm.rank() == 0) comm.all_reduce(x);
                   });
                 }),
                 {("expected a tensor on cuda:0, got f32 (2) on " + device.str()).c_str()});
}

#if defined(FACET_CUDA_EMULATED)
TEST_F(NcclTest, ALostPeerIsADeviceError) {
  EXPECT_THROW(cuda::run_ranks(kTwo,
                               [](Comm& comm) {
                                 comm.barrier();
                                 emu::plan_faults({.fail_collective = 0});
                                 comm.barrier();
                               }),
               DeviceError);
}

// Ranks then meet as threads and copy.
TEST(NcclDeathTest, AMissingLibraryCostsSpeedOnly) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto without = [] {
    ::setenv("FACET_EMU_MACHINE", "vendor_libraries=0", 1);
    cuda::install();
    cuda::run_ranks(kTwo, [](Comm& comm) {
      Tensor x = Tensor::full({2}, comm.rank() + 1.0, DType::f32, device_of(comm));
      comm.all_reduce(x);
      if (comm.rank() == 0)
        fmt::print(stderr, "{}: {}; {}\n", cuda::vendor::comm_library(), x.to_vector<float>()[0],
                   cuda::vendor::last_refusal());
    });
    std::exit(0);
  };
  EXPECT_EXIT(without(), testing::ExitedWithCode(0),
              "NCCL not found: 3; ranks talk by copies: the emulated machine has none");
}

// ---- the stand-in

// Two communicators in this thread.
class StandIn : public NcclTest {
 protected:
  void SetUp() override {
    NcclTest::SetUp();
    ncclUniqueId id;
    ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
    ASSERT_EQ(ncclGroupStart(), ncclSuccess);
    for (int rank = 0; rank < 2; ++rank) {
      const cuda::DeviceGuard guard(rank);
      ASSERT_EQ(ncclCommInitRank(&comms[rank], 2, id, rank), ncclSuccess);
      x[rank] = Tensor::full({4}, rank + 1.0, DType::f32, {DeviceType::cuda, rank});
    }
    ASSERT_EQ(ncclGroupEnd(), ncclSuccess);
  }
  void TearDown() override {
    for (ncclComm_t comm : comms) EXPECT_EQ(ncclCommDestroy(comm), ncclSuccess);
    NcclTest::TearDown();
  }
  ncclResult_t sum(int rank, size_t count) {
    return ncclAllReduce(x[rank].raw(), x[rank].raw(), count, ncclFloat32, ncclSum, comms[rank],
                         cuda::stream(rank));
  }
  ncclComm_t comms[2];
  Tensor x[2];
};

TEST_F(StandIn, AStreamNeedsNoThreadThatWaits) {
  for (const int rank : {0, 1}) ASSERT_EQ(sum(rank, 4), ncclSuccess);
  EXPECT_EQ(x[0].to_vector<float>(), std::vector<float>(4, 3));
  EXPECT_EQ(x[1].to_vector<float>(), std::vector<float>(4, 3));
}

TEST_F(StandIn, AGroupBeginsAtItsEnd) {
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (const int rank : {0, 1}) ASSERT_EQ(sum(rank, 4), ncclSuccess);
  EXPECT_EQ(x[0].to_vector<float>(), std::vector<float>(4, 1));  // nothing yet
  ASSERT_EQ(ncclGroupEnd(), ncclSuccess);
  EXPECT_EQ(x[0].to_vector<float>(), std::vector<float>(4, 3));
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
}

TEST_F(StandIn, DifferentCallsFailTheDevice) {
  ASSERT_EQ(sum(0, 4), ncclSuccess);
  ASSERT_EQ(sum(1, 3), ncclSuccess);
  expect_parts(error_of<Error>([&] { x[0].to_vector<float>(); }),
               {"ncclAllReduce of 4 values", "ncclAllReduce of 3 values"});
}

TEST_F(StandIn, RefusesWhatNcclRefuses) {
  EXPECT_EQ(ncclAllReduce(x[0].raw(), nullptr, 4, ncclFloat32, ncclSum, comms[0], cuda::stream(0)),
            ncclInvalidArgument);
  EXPECT_EQ(sum(0, 4096), ncclInvalidArgument);  // beyond the tensor's memory
  EXPECT_EQ(
      ncclAllReduce(x[1].raw(), x[1].raw(), 4, ncclFloat32, ncclSum, comms[0], cuda::stream(0)),
      ncclInvalidArgument);  // another device's memory
  EXPECT_EQ(
      ncclAllReduce(x[0].raw(), x[0].raw(), 4, ncclFloat32, ncclSum, comms[0], cuda::stream(1)),
      ncclInvalidArgument);  // another device's stream
  EXPECT_EQ(ncclBroadcast(x[0].raw(), x[0].raw(), 4, ncclFloat32, 2, comms[0], cuda::stream(0)),
            ncclInvalidArgument);  // no such rank
  // Two ranks on one device.
  ncclUniqueId id;
  ncclComm_t pair[2];
  ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  ASSERT_EQ(ncclGroupStart(), ncclSuccess);
  for (int rank = 0; rank < 2; ++rank)
    EXPECT_EQ(ncclCommInitRank(&pair[rank], 2, id, rank), ncclSuccess);
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
  EXPECT_EQ(ncclCommDestroy(pair[0]), ncclSuccess);
}
#endif

}  // namespace
}  // namespace facet
