// One block of an emulated launch: its threads as fibers, its shared memory, its barriers. Kernels
// reach it through the functions at the end, which cuda/emu/include/cuda_runtime.h dresses up as
// CUDA's own.
//
// A thread runs until it finishes or waits. What runs next is the schedule's choice; results must
// not depend on it. Exited threads count as arrived at the block's barrier, as on the device.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>
#include <vector>

namespace facet::emu {

constexpr unsigned kWarpSize = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxSharedBytes = size_t{227} << 10;

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};

// Which of the threads that could run is taken.
struct Schedule {
  enum class Kind : uint8_t {
    greedy,   // warps in order, each as far as it gets
    reverse,  // the same from the last lane of the last warp
    random    // any warp, any lane
  } kind = Kind::greedy;
  uint64_t seed = 0;

  // "greedy", "reverse" or "random:SEED"
  static Schedule parse(const std::string& text);
  std::string name() const;
};

// FACET_EMU_SCHEDULE at the start of the process; greedy without it.
Schedule schedule();
void set_schedule(const Schedule& schedule);

struct LaunchShape {
  Index3 grid{1, 1, 1}, block{1, 1, 1};
  size_t dynamic_shared_bytes = 0;
};

// Runs body() once a thread of the grid, block after block. Throws KernelFault, which says what
// went wrong and where: a deadlock, a barrier that not all reach, too much shared memory, a failed
// device-side check.
void run_grid(const char* kernel, const LaunchShape& shape, const std::function<void()>& body);

// For the coverage test: every kernel that the program could launch, and those that it did.
bool register_kernel(const char* name);
std::vector<std::string> known_kernels();
std::vector<std::string> kernels_run();

// ---- for kernels
struct ThreadPlace {
  Index3 thread, block, block_dim, grid_dim;
};
extern thread_local const ThreadPlace* place;

using Location = std::source_location;
void sync_threads(Location at);
// Also sums `value` over the block.
int sync_threads_sum(int value, Location at);
void sync_warp(uint32_t mask, Location at);

// Every lane hands in up to 32 bytes; returns the lanes' values, 32 bytes each.
using WarpValues = std::array<std::array<uint64_t, 4>, kWarpSize>;
const WarpValues& exchange(uint32_t mask, const void* value, size_t bytes, Location at);
unsigned lane();

// Static shared memory: the same address for every thread of the block that names the same `key`.
void* shared_array(const void* key, size_t bytes, size_t alignment);
void* dynamic_shared_memory();

// The asynchronous copies that the running thread has issued and not yet waited for
// (cuda/async.cuh).
struct AsyncCopies {
  struct Copy {
    void* to;
    const void* from;  // null: zeros
    uint64_t group;
  };
  std::vector<Copy> waiting;
  uint64_t group = 0;  // that the next copy belongs to
};
AsyncCopies& async_copies();

[[noreturn]] void device_fail(const char* what, Location at);

}  // namespace facet::emu
