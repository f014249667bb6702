// CUDA devices as facet uses them: one stream of work each, and a caching allocator.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/error.h"
#include "tensor/device.h"

namespace facet::cuda {

// Makes tensors on Device{DeviceType::cuda, i} possible, if they are not yet. Throws one line that
// says what is missing, the driver or a device (code for a device: the first launch there); or that
// FACET_KERNELS or FACET_CONVOLUTION_PLANS has an unknown value.
void install();

int device_count();
// "NVIDIA H100 80GB HBM3, compute capability 9.0, 132 multiprocessors, 79 GiB"
std::string device_description(int device);

// The stream that all work of a device goes into, in order. The first call makes it, and with it a
// context, which takes hundreds of megabytes.
cudaStream_t stream(int device);
bool in_use(int device);  // whether it has its stream

// What `device` is given from now on waits for what `other` was given so far; the host does not.
void wait_for(int device, int other);

// Makes a device current, and the one before again: but not device 0 where no guard has chosen it
// yet, because that would make a context on it, which may be full or another's. (So a program that
// works on device 0 itself has to choose it again.)
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) { check(choose(device), "cudaSetDevice"); }
  // Throws nothing, for destructors: the device may have failed.
  DeviceGuard(int device, std::nothrow_t) noexcept { static_cast<void>(choose(device)); }
  ~DeviceGuard() {
    if (before_ != 0 || first_chosen_) static_cast<void>(cudaSetDevice(before_));
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  cudaError_t choose(int device) {
    cudaError_t code = cudaGetDevice(&before_);
    if (code == cudaSuccess && device != before_) code = cudaSetDevice(device);
    if (code == cudaSuccess && device == 0) first_chosen_ = true;
    return code;
  }
  inline static std::atomic<bool> first_chosen_{false};
  int before_ = 0;
};

// What does the work of an operation: the vendor's library where there is one for it (cuda/vendor),
// else facet's tuned kernel; the tuned kernel; its naive twin. The tests compare all of them.
// FACET_KERNELS=vendor|tuned|naive sets it for a whole program.
enum class KernelChoice : uint8_t { vendor, tuned, naive };
KernelChoice kernel_choice();
void set_kernel_choice(KernelChoice choice);
int64_t kernel_choices();  // made so far, so that a test knows whether there was one

// Blocks that fill a device: kernels choose tiles and split sums by it. Two for each multiprocessor
// of an H100, whatever the device, so that sums are everywhere the same; tests set fewer, so that
// small tensors are treated like large ones.
constexpr int64_t kEnoughBlocks = 264;
int64_t enough_blocks();
int64_t enough_blocks_asked();  // how often, as kernel_choices()
void set_enough_blocks(int64_t blocks);

// ---- memory. Blocks that are released are kept for the next tensor of about that size: in a
// training step every size comes again. All work of a device is in one stream, so a block may be
// handed out again before the work that used it has ended.
struct MemoryStatistics {
  size_t in_use = 0, cached = 0;  // bytes in tensors; bytes kept for later ones
  size_t peak_in_use = 0;
  int64_t device_allocations = 0;  // calls of cudaMalloc
};
MemoryStatistics memory_statistics(int device);
void empty_cache(int device);

// Copies host bytes to a device in the order of its work, without waiting for it: `from` may go at
// once. Small copies pass through pinned memory; large ones wait.
void upload(void* to, const void* from, size_t bytes, int device);

// Host memory that copies go through, and an event of the current device, which may go before the
// work that it marks has come: given back where a failed device ends what they were made for.
using Pinned = std::unique_ptr<void, cudaError_t (*)(void*)>;
Pinned pinned(size_t bytes);
using Event = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, cudaError_t (*)(cudaEvent_t)>;
Event event(unsigned flags);

// Seconds that a device's work takes, by its own clock.
class DeviceTimer {
 public:
  explicit DeviceTimer(int device);
  void start();
  double stop();  // waits for the device

 private:
  int device_;
  Event begin_{nullptr, cudaEventDestroy}, end_{nullptr, cudaEventDestroy};
};

// ---- recorded work. What a function asks of a device is recorded as a CUDA graph and replayed
// with one launch. Every tensor that is made while recording keeps its address for the graph's
// life, so results are read and inputs are written through the same handles after each replay.
class Graph {
 public:
  explicit Graph(int device) : device_(device) {}
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // Records `work` without doing it. Throws what work throws, and an Error where it waits for the
  // device: for a copy to the host above all. Copies from the host are repeated as they were.
  void record(const std::function<void()>& work);
  bool recorded() const { return graph_ != nullptr; }
  void replay();  // behind all work of the device's stream

 private:
  void clear();

  int device_;
  cudaGraphExec_t graph_ = nullptr;
  std::vector<Pinned> pinned_;  // what copies from the host read
};
// Whether this device's work is being recorded now.
bool recording(int device);

}  // namespace facet::cuda
