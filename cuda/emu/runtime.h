// The emulated devices: memory, streams, events, graphs, faults on demand. Streams are lazy: work
// is done when somebody waits for it, so that a missing synchronisation shows as stale data.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <mutex>
#include <span>
#include <string>

namespace facet::emu {

// Enqueues a kernel; faults come out at the next call that waits.
void enqueue_kernel(cudaStream_t stream, const char* kernel, const LaunchShape& shape,
                    std::function<void()> body);

// Enqueues host work in a stream: what a vendor library's stand-in does.
void enqueue(cudaStream_t stream, std::function<void()> work);

// Locks the emulator, as it is while work in a stream is done: for what stand-ins share with it.
[[nodiscard]] std::unique_lock<std::recursive_mutex> lock();

// For work in a stream that needs other streams, as a collective does: waits until ready(), a fault
// or tell_waiting(). Meanwhile the work of the `others` is done, and other threads go on. As a
// device's streams would, which need no host thread to wait for them.
void wait_in_work(const std::function<bool()>& ready, std::span<const cudaStream_t> others);
void tell_waiting();

// Whether [at, at + bytes) is memory of that device; the device of a stream.
bool is_device_memory(const void* at, size_t bytes, int device);
int device_of(cudaStream_t stream);

// What the last fault was, in words; CUDA's own codes say little. Empty: none.
std::string last_fault();

// The machine that the emulator plays.
struct Machine {
  int devices = 2;
  int driver_version = 13000;
  size_t memory_bytes = size_t{8} << 30;  // each device
  int broken_device = -1;                 // it gives no context: full, or another's alone
  bool kernel_image = true;               // the program holds code for the devices
  bool vendor_libraries = true;           // the stand-ins can be found
  bool vendor_handles = true;             // and give handles
};
Machine& machine();

// Faults on demand, for tests of error handling.
struct FaultPlan {
  int64_t fail_allocation = -1;       // the n-th cudaMalloc from now (0: the next) finds no memory
  int64_t fail_host_allocation = -1;  // as much for cudaMallocHost
  bool fail_instantiate = false;      // no graph can be made of what was recorded
  int64_t fail_launch = -1;           // the n-th kernel that runs from now fails
  int64_t fail_collective = -1;       // NCCL loses a peer in the n-th collective from now
  bool refuse_products = false;       // cuBLASLt has no algorithm for anything
  bool refuse_convolutions = false;   // cuDNN has no engine for anything
};
void plan_faults(const FaultPlan& plan);
FaultPlan faults();
// At the start of the process FACET_EMU_MACHINE can set most of these, for tests of whole programs:
// any of "devices=0,driver=11000,memory=BYTES,broken_device=N,kernel_image=0,vendor_libraries=0,
// vendor_handles=0,fail_allocation=N,fail_launch=N,fail_collective=N".

// Back to a fresh process: streams emptied, errors forgotten, faults and machine as at the start.
// Memory that is still allocated stays.
void reset();

}  // namespace facet::emu
