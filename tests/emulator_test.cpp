// The emulator: what a right kernel gives, and that each kind of mistake is seen.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "cuda/block.cuh"
#include "cuda/emu/error.h"
#include "cuda/emu/runtime.h"
#include "tests/device_array.h"
#include "tests/folder.h"

namespace facet {
namespace {

using cuda::launch;
using test::DeviceArray;
using test::expect_fault;
using test::for_each_schedule;

std::vector<float> counting(size_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

class EmulatorTest : public testing::Test {
 protected:
  void SetUp() override {
    before_ = emu::schedule();
    emu::reset();
  }
  void TearDown() override {
    emu::reset();
    emu::set_schedule(before_);
  }

 private:
  emu::Schedule before_;
};

// ---- right kernels

// grid (ceil(n / 256)), block 256; y = a x
__global__ void scale_kernel(float a, const float* x, float* y, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = a * x[i];
}

// grid 1, block 256; y = sum of 256 x
template <bool Barrier>
__global__ void tree_sum_kernel(const float* x, float* y) {
  SHARED_ARRAY(float, partial, 256);
  const unsigned i = threadIdx.x;
  partial[i] = x[i];
  for (unsigned distance = 128; distance > 0; distance /= 2) {
    if (Barrier) __syncthreads();
    if (i < distance) partial[i] += partial[i + distance];
  }
  if (i == 0) *y = partial[0];
}

// grid 1, block (32, 4, 2): where a thread is
__global__ void place_kernel(int* out) {
  const unsigned i = threadIdx.x + 32 * (threadIdx.y + 4 * threadIdx.z);
  out[i] = static_cast<int>(threadIdx.x + 100 * threadIdx.y + 1000 * threadIdx.z);
}

// grid 1, block 64: every warp function once
__global__ void warp_kernel(int* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int* const row = out + 8 * threadIdx.x;
  row[0] = __shfl_sync(cuda::kAllLanes, lane, 5);
  row[1] = __shfl_xor_sync(cuda::kAllLanes, lane, 3);
  row[2] = __shfl_down_sync(cuda::kAllLanes, lane, 4);
  row[3] = __shfl_up_sync(cuda::kAllLanes, lane, 4);
  row[4] = static_cast<int>(__ballot_sync(cuda::kAllLanes, lane < 3));
  row[5] = __any_sync(cuda::kAllLanes, lane == 31);
  row[6] = __all_sync(cuda::kAllLanes, lane < 31);
  row[7] = __syncthreads_count(lane == 0);
}

// grid 1, block 256, 1024 bytes of dynamic shared memory; y reverses x. Half of the threads leave
// early: exited threads count as arrived.
__global__ void reverse_kernel(const float* x, float* y) {
  float* const line = cuda::dynamic_shared<float>();
  line[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (threadIdx.x >= 128) return;
  y[threadIdx.x] = line[255 - threadIdx.x];
  __syncthreads();
  y[255 - threadIdx.x] = line[threadIdx.x];
}

// grid 1, block 256: two sums in a row with the same scratch
__global__ void two_sums_kernel(const float* x, float* y) {
  SHARED_ARRAY(float, scratch, 32);
  const float sum = cuda::block_sum(x[threadIdx.x], scratch);
  const float squares = cuda::block_sum(x[threadIdx.x] * x[threadIdx.x], scratch);
  y[threadIdx.x] = sum + squares;
}

TEST_F(EmulatorTest, RunsElementwiseKernels) {
  for_each_schedule([] {
    DeviceArray<float> x(counting(1000)), y(std::vector<float>(1000));
    launch<scale_kernel>(4, 256, 0, nullptr, 2.0f, x, y, 1000);
    const std::vector<float> got = y.host();
    for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], 2.0f * static_cast<float>(i + 1));
  });
}

TEST_F(EmulatorTest, KnowsWhereAThreadIs) {
  DeviceArray<int> out(std::vector<int>(256));
  launch<place_kernel>(1, dim3(32, 4, 2), 0, nullptr, out);
  const std::vector<int> got = out.host();
  EXPECT_EQ(got[0], 0);
  EXPECT_EQ(got[31 + 32 * (3 + 4 * 1)], 1331);
}

TEST_F(EmulatorTest, BarriersAndReductions) {
  for_each_schedule([] {
    DeviceArray<float> x(counting(256)), y(std::vector<float>(256));
    launch<tree_sum_kernel<true>>(1, 256, 0, nullptr, x, y);
    EXPECT_EQ(y.host()[0], 256 * 257 / 2);
    launch<two_sums_kernel>(1, 256, 0, nullptr, x, y);
    for (const float v : y.host()) ASSERT_EQ(v, 256 * 257 / 2 + 256 * 257 * 513 / 6);
    launch<reverse_kernel>(1, 256, 1024, nullptr, x, y);
    const std::vector<float> got = y.host();
    for (size_t i = 0; i < 256; ++i) ASSERT_EQ(got[i], static_cast<float>(256 - i));
  });
}

TEST_F(EmulatorTest, WarpFunctions) {
  for_each_schedule([] {
    DeviceArray<int> out(std::vector<int>(64 * 8));
    launch<warp_kernel>(1, 64, 0, nullptr, out);
    const std::vector<int> got = out.host();
    for (int thread = 0; thread < 64; ++thread) {
      const int lane = thread % 32, *row = got.data() + 8 * thread;
      const int want[] = {
          5, lane ^ 3, lane < 28 ? lane + 4 : lane, lane >= 4 ? lane - 4 : lane, 7, 1, 0, 2};
      for (int i = 0; i < 8; ++i) ASSERT_EQ(row[i], want[i]) << "thread " << thread << " " << i;
    }
  });
}

// ---- wrong kernels

// Sums with a scratch that a fast warp writes again while a slow one still reads.
__global__ void reused_scratch_kernel(const float* x, float* y) {
  SHARED_ARRAY(float, scratch, 32);
  float total = 0;
  for (int round = 0; round < 2; ++round) {
    const float sum =
        cuda::warp_reduce(x[threadIdx.x] * static_cast<float>(round + 1), cuda::Add{});
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = sum;
    __syncthreads();
    for (unsigned w = 0; w < blockDim.x / 32; ++w) total += scratch[w];
  }
  y[threadIdx.x] = total;
}

__global__ void divergent_kernel(float* y) {
  if (threadIdx.x < 32) {
    __syncthreads();
    y[threadIdx.x] = 1;
  } else {
    __syncthreads();
    y[threadIdx.x] = 2;
  }
}
__global__ void half_waits_kernel(float* y) {
  if (threadIdx.x % 32 < 16)
    __syncthreads();
  else
    __syncwarp();
  y[threadIdx.x] = 1;
}
__global__ void half_left_kernel(float* y) {
  if (threadIdx.x % 2 == 0) return;
  y[threadIdx.x] = __shfl_sync(cuda::kAllLanes, 1.0f, 1);
}
__global__ void partial_mask_kernel(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0);
}
__global__ void uninitialised_kernel(float* y) {
  SHARED_ARRAY(float, values, 32);
  if (threadIdx.x < 16) values[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = values[threadIdx.x];
}
__global__ void failed_check_kernel(float* y) {
  DEVICE_CHECK(threadIdx.x != 7);
  y[threadIdx.x] = 1;
}
__global__ void much_shared_kernel(float* y) {
  SHARED_ARRAY(float, values, 100000);
  values[threadIdx.x] = 1;
  y[threadIdx.x] = values[threadIdx.x];
}
// Whether every schedule gives `want`.
template <typename F>
bool always_gives(float want, F run) {
  bool always = true;
  for_each_schedule([&] {
    for (const float v : run()) always = always && v == want;
  });
  return always;
}

// Races are in these on purpose; the thread sanitizer's own test is below.
#if !defined(__SANITIZE_THREAD__)
TEST_F(EmulatorTest, AMissingBarrierGivesAnotherResult) {
  DeviceArray<float> x(counting(256)), y(std::vector<float>(1));
  EXPECT_TRUE(always_gives(256 * 257 / 2, [&] {
    launch<tree_sum_kernel<true>>(1, 256, 0, nullptr, x, y);
    return y.host();
  }));
  EXPECT_FALSE(always_gives(256 * 257 / 2, [&] {
    launch<tree_sum_kernel<false>>(1, 256, 0, nullptr, x, y);
    return y.host();
  }));
}

TEST_F(EmulatorTest, AScratchUsedTooEarlyGivesAnotherResult) {
  DeviceArray<float> x(counting(128)), y(std::vector<float>(128));
  EXPECT_FALSE(always_gives(3 * 128 * 129 / 2, [&] {
    launch<reused_scratch_kernel>(1, 128, 0, nullptr, x, y);
    return y.host();
  }));
}
#else
TEST_F(EmulatorTest, TheThreadSanitizerNamesTheRace) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [](auto kernel) {
    DeviceArray<float> x(counting(256)), y(std::vector<float>(256));
    kernel(x, y);
    cudaDeviceSynchronize();
    std::exit(0);
  };
  EXPECT_EXIT(
      run([](float* x, float* y) { launch<tree_sum_kernel<false>>(1, 256, 0, nullptr, x, y); }),
      testing::ExitedWithCode(66), "data race.*emulator_test");
  EXPECT_EXIT(
      run([](float* x, float* y) { launch<reused_scratch_kernel>(1, 256, 0, nullptr, x, y); }),
      testing::ExitedWithCode(66), "data race.*emulator_test");
  EXPECT_EXIT(run([](float* x, float* y) { launch<two_sums_kernel>(1, 256, 0, nullptr, x, y); }),
              testing::ExitedWithCode(0), "");
}
#endif

#if defined(__SANITIZE_ADDRESS__)
// grid 1, block 64; `off` reaches behind the array
__global__ void out_of_bounds_kernel(float* y, int off) {
  y[static_cast<int>(threadIdx.x) + off] = 1;
}
__global__ void shared_overrun_kernel(float* y, int off) {
  SHARED_ARRAY(float, first, 64);
  SHARED_ARRAY(float, second, 64);
  first[static_cast<int>(threadIdx.x) + off] = 1;
  second[threadIdx.x] = 2;
  y[threadIdx.x] = first[threadIdx.x] + second[threadIdx.x];
}

TEST_F(EmulatorTest, TheAddressSanitizerNamesTheLine) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto run = [](auto kernel) {
    DeviceArray<float> y(std::vector<float>(64));
    kernel(y);
    cudaDeviceSynchronize();
  };
  EXPECT_DEATH(run([](float* y) { launch<out_of_bounds_kernel>(1, 64, 0, nullptr, y, 1); }),
               "heap-buffer-overflow(.|\n)*out_of_bounds_kernel");
  EXPECT_DEATH(run([](float* y) { launch<shared_overrun_kernel>(1, 64, 0, nullptr, y, 1); }),
               "use-after-poison(.|\n)*shared_overrun_kernel");
}
#endif

TEST_F(EmulatorTest, ADivergentBarrierIsNamed) {
  DeviceArray<float> y(std::vector<float>(64));
  launch<divergent_kernel>(1, 64, 0, nullptr, y);
  expect_fault({"divergent_kernel", "divergent barrier", "emulator_test.cpp:"});
}

TEST_F(EmulatorTest, ADeadlockCountsWhoWaitsWhere) {
  for_each_schedule([] {
    DeviceArray<float> y(std::vector<float>(64));
    launch<half_waits_kernel>(1, 64, 0, nullptr, y);
    expect_fault({"half_waits_kernel", "deadlock in block (0, 0, 0)",
                  "32 threads at __syncthreads (emulator_test.cpp:",
                  "32 threads at a warp function (emulator_test.cpp:", "0 exited"});
    launch<half_left_kernel>(1, 64, 0, nullptr, y);
    expect_fault({"half_left_kernel", "emulator_test.cpp:"});
  });
}

TEST_F(EmulatorTest, APartialMaskIsRefused) {
  DeviceArray<float> y(std::vector<float>(32));
  launch<partial_mask_kernel>(1, 32, 0, nullptr, y);
  expect_fault({"partial_mask_kernel", "0x0000ffff", "full mask"});
}

TEST_F(EmulatorTest, UninitialisedSharedMemoryIsNaN) {
  for_each_schedule([] {
    DeviceArray<float> y(std::vector<float>(32));
    launch<uninitialised_kernel>(1, 32, 0, nullptr, y);
    const std::vector<float> got = y.host();
    EXPECT_EQ(got[3], 1.0f);
    EXPECT_TRUE(std::isnan(got[20]));
  });
}

TEST_F(EmulatorTest, AFailedCheckNamesTheThread) {
  DeviceArray<float> y(std::vector<float>(32));
  launch<failed_check_kernel>(1, 32, 0, nullptr, y);
  expect_fault({"failed_check_kernel", "thread (7, 0, 0)", "threadIdx.x != 7"});
}

TEST_F(EmulatorTest, ImpossibleLaunchesAreRefused) {
  DeviceArray<float> y(std::vector<float>(32));
  EXPECT_THROW(launch<failed_check_kernel>(1, 2048, 0, nullptr, y), cuda::CudaError);
  emu::reset();
  EXPECT_THROW(launch<failed_check_kernel>(1, 33, 0, nullptr, y), cuda::CudaError);
  emu::reset();
  EXPECT_THROW(launch<failed_check_kernel>(0, 32, 0, nullptr, y), cuda::CudaError);
  emu::reset();
  EXPECT_THROW(launch<failed_check_kernel>(1, 32, size_t{228} << 10, nullptr, y), cuda::CudaError);
  emu::reset();
  launch<much_shared_kernel>(1, 32, 0, nullptr, y);
  expect_fault({"much_shared_kernel", "400000 bytes of shared memory"});
}

// ---- streams, events, graphs, devices

TEST_F(EmulatorTest, WithoutWaitingDataAreStale) {
  DeviceArray<float> x(counting(256)), y(std::vector<float>(256));
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  std::vector<float> host(256, -1.0f);
  launch<scale_kernel>(1, 256, 0, stream, 2.0f, x, y, 256);
  ASSERT_EQ(cudaMemcpyAsync(host.data(), y, 1024, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  EXPECT_EQ(host[0], -1.0f);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(host[0], 2.0f);
  cudaStreamDestroy(stream);
}

TEST_F(EmulatorTest, EventsOrderStreams) {
  DeviceArray<float> x(counting(256)), y(std::vector<float>(256)), z(std::vector<float>(256));
  cudaStream_t a, b;
  cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
  cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
  cudaEvent_t done;
  cudaEventCreateWithFlags(&done, cudaEventDisableTiming);
  launch<scale_kernel>(1, 256, 0, a, 2.0f, x, y, 256);
  cudaEventRecord(done, a);
  EXPECT_EQ(cudaEventQuery(done), cudaErrorNotReady);
  cudaStreamWaitEvent(b, done);
  launch<scale_kernel>(1, 256, 0, b, 3.0f, y, z, 256);
  cudaStreamSynchronize(b);
  std::vector<float> host(256);
  cudaMemcpyAsync(host.data(), z, 1024, cudaMemcpyDeviceToHost, b);
  cudaStreamSynchronize(b);
  EXPECT_EQ(host[9], 60.0f);
  cudaEventDestroy(done);
  cudaStreamDestroy(a);
  cudaStreamDestroy(b);
}

TEST_F(EmulatorTest, GraphsReplay) {
  DeviceArray<float> x(counting(256));
  cudaStream_t stream;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  launch<scale_kernel>(1, 256, 0, stream, 2.0f, x, x, 256);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_EQ(x.host()[0], 1.0f);  // recorded, not run
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  cudaStreamSynchronize(stream);
  EXPECT_EQ(x.host()[0], 8.0f);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  // What waits spoils a capture; what allocates, too, except in the relaxed mode.
  void* memory = nullptr;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
  EXPECT_EQ(cudaMalloc(&memory, 64), cudaSuccess);
  EXPECT_EQ(cudaFree(memory), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  EXPECT_EQ(cudaMalloc(&memory, 64), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
  cudaStreamDestroy(stream);
}

TEST_F(EmulatorTest, CopiesMustGoWhereTheySay) {
  DeviceArray<float> x(counting(16));
  float host[16];
  EXPECT_EQ(cudaMemcpy(host, x, 64, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host, x, 68, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);  // too long
  EXPECT_EQ(cudaMemcpy(host, x, 64, cudaMemcpyDeviceToHost), cudaSuccess);
}

// As on several GPUs, where work goes to the current device alone.
TEST_F(EmulatorTest, AnotherDevicesStreamIsRefused) {
  DeviceArray<float> x(counting(32));
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDefault), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(event, stream), cudaErrorInvalidResourceHandle);
  test::expect_parts(test::error_of<cuda::CudaError>(
                         [&] { launch<scale_kernel>(1, 32, 0, stream, 2.0f, x, x, 32); }),
                     {"its stream is of device 1, current is 0"});
  static_cast<void>(cudaGetLastError());
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST_F(EmulatorTest, FaultsOnDemand) {
  int count = 0;
  emu::machine().devices = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
  emu::reset();
  emu::machine().driver_version = 11000;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
  emu::reset();
  EXPECT_EQ(cudaSetDevice(7), cudaErrorInvalidDevice);
  void* memory = nullptr;
  emu::plan_faults({.fail_allocation = 1});
  EXPECT_EQ(cudaMalloc(&memory, 64), cudaSuccess);
  cudaFree(memory);
  EXPECT_EQ(cudaMalloc(&memory, 64), cudaErrorMemoryAllocation);
  emu::reset();
  emu::machine().memory_bytes = 1000;
  EXPECT_EQ(cudaMalloc(&memory, 1001), cudaErrorMemoryAllocation);
  emu::reset();
  // After a fault every call fails: nothing more may be trusted.
  DeviceArray<float> x(counting(32));
  emu::plan_faults({.fail_launch = 0});
  launch<scale_kernel>(1, 32, 0, nullptr, 2.0f, x, x, 32);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaMalloc(&memory, 64), cudaErrorLaunchFailure);
  cudaEvent_t event = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventDefault), cudaErrorLaunchFailure);
  EXPECT_EQ(event, nullptr);
  emu::reset();
}

TEST_F(EmulatorTest, SchedulesAreNamed) {
  for (const char* text : {"greedy", "reverse", "random:17"})
    EXPECT_EQ(emu::Schedule::parse(text).name(), text);
  EXPECT_THROW(emu::Schedule::parse("fast"), UsageError);
  EXPECT_THROW(emu::Schedule::parse("random:"), UsageError);
}

TEST_F(EmulatorTest, KernelsAreKnownByName) {
  const std::vector<std::string> known = emu::known_kernels();
  const auto has = [&](const char* word) {
    return std::any_of(known.begin(), known.end(),
                       [&](const std::string& name) { return name.ends_with(word); });
  };
  EXPECT_TRUE(has("tree_sum_kernel<true>"));
  EXPECT_TRUE(has("scale_kernel"));
}

// For kernels of users: none of ours calls these.
TEST(Intrinsics, AreWhatTheyAreOnADevice) {
  const float one = 1.0f;
  EXPECT_EQ(__popc(0b1011) + __clz(1) + __ffs(8), 3 + 31 + 4);
  EXPECT_EQ(rsqrtf(4.0f) + __expf(0.0f) + __logf(1.0f) + __fdividef(1, 2) + __ldg(&one), 3.0f);
  EXPECT_EQ(rsqrt(4.0) + make_float4(1, 2, 3, 4).w + make_float2(1, 2).y, 6.5);
}

}  // namespace
}  // namespace facet
