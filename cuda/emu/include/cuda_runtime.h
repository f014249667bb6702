// CUDA's runtime API and device functions, as far as facet uses them, on a machine without CUDA.
// Kernels and host code include <cuda_runtime.h> and find this file in an emulated build.
// What it does not show: speed, coalescing, bank conflicts, registers, weak memory order.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#include "cuda/emu/block.h"
#include "cuda/emu/names.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict

// ---- host: types

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define FACET_CUDA_ERRORS(VALUE)                \
  VALUE(cudaSuccess, 0)                         \
  VALUE(cudaErrorInvalidValue, 1)               \
  VALUE(cudaErrorMemoryAllocation, 2)           \
  VALUE(cudaErrorInvalidConfiguration, 9)       \
  VALUE(cudaErrorInsufficientDriver, 35)        \
  VALUE(cudaErrorDevicesUnavailable, 46)        \
  VALUE(cudaErrorInvalidDeviceFunction, 98)     \
  VALUE(cudaErrorNoDevice, 100)                 \
  VALUE(cudaErrorInvalidDevice, 101)            \
  VALUE(cudaErrorNoKernelImageForDevice, 209)   \
  VALUE(cudaErrorInvalidResourceHandle, 400)    \
  VALUE(cudaErrorNotReady, 600)                 \
  VALUE(cudaErrorLaunchFailure, 719)            \
  VALUE(cudaErrorStreamCaptureUnsupported, 900) \
  VALUE(cudaErrorStreamCaptureInvalidated, 901)
enum cudaError_t : int { FACET_CUDA_ERRORS(FACET_ENUMERATOR) };
enum cudaMemcpyKind : int {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
enum cudaStreamCaptureMode : int {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
enum cudaStreamCaptureStatus : int {
  cudaStreamCaptureStatusNone,
  cudaStreamCaptureStatusActive,
  cudaStreamCaptureStatusInvalidated
};
enum cudaDeviceAttr : int { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaEventDefault = 0,
                   cudaEventBlockingSync = 1;

struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount;
};

namespace facet::emu {
struct Stream;
struct Event;
struct Graph;
}  // namespace facet::emu
using cudaStream_t = facet::emu::Stream*;
using cudaEvent_t = facet::emu::Event*;
using cudaGraph_t = facet::emu::Graph*;
using cudaGraphExec_t = facet::emu::Graph*;

// ---- host: functions (cuda/emu/runtime.cpp)

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMalloc(void** at, size_t bytes);
cudaError_t cudaFree(void* at);
cudaError_t cudaMallocHost(void** at, size_t bytes);
cudaError_t cudaFreeHost(void* at);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

// ---- device: where a thread is

#define threadIdx (::facet::emu::place->thread)
#define blockIdx (::facet::emu::place->block)
#define blockDim (::facet::emu::place->block_dim)
#define gridDim (::facet::emu::place->grid_dim)
constexpr int warpSize = 32;

// ---- device: barriers and warp functions

inline void __syncthreads(std::source_location at = std::source_location::current()) {
  facet::emu::sync_threads(at);
}
inline int __syncthreads_count(int predicate,
                               std::source_location at = std::source_location::current()) {
  return facet::emu::sync_threads_sum(predicate != 0, at);
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       std::source_location at = std::source_location::current()) {
  facet::emu::sync_warp(mask, at);
}

namespace facet::emu {
// `value` of another lane.
template <typename T>
T shuffle(unsigned mask, T value, unsigned source, std::source_location at) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
  const WarpValues& values = exchange(mask, &value, sizeof(T), at);
  T result;
  std::memcpy(&result, values[source].data(), sizeof(T));
  return result;
}
}  // namespace facet::emu

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              std::source_location at = std::source_location::current()) {
  const unsigned lane = facet::emu::lane(), w = static_cast<unsigned>(width);
  return facet::emu::shuffle(mask, value, lane / w * w + static_cast<unsigned>(source) % w, at);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  std::source_location at = std::source_location::current()) {
  const unsigned lane = facet::emu::lane(), w = static_cast<unsigned>(width);
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  return facet::emu::shuffle(mask, value, source / w <= lane / w ? source : lane, at);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   std::source_location at = std::source_location::current()) {
  const unsigned lane = facet::emu::lane(), w = static_cast<unsigned>(width);
  return facet::emu::shuffle(mask, value, lane % w + delta < w ? lane + delta : lane, at);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 std::source_location at = std::source_location::current()) {
  const unsigned lane = facet::emu::lane(), w = static_cast<unsigned>(width);
  return facet::emu::shuffle(mask, value, lane % w >= delta ? lane - delta : lane, at);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location at = std::source_location::current()) {
  const int bit = predicate != 0;
  const facet::emu::WarpValues& values = facet::emu::exchange(mask, &bit, sizeof bit, at);
  unsigned result = 0;
  for (unsigned i = 0; i < 32; ++i) result |= static_cast<unsigned>(values[i][0] & 1u) << i;
  return result;
}
inline int __any_sync(unsigned mask, int predicate,
                      std::source_location at = std::source_location::current()) {
  return __ballot_sync(mask, predicate, at) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      std::source_location at = std::source_location::current()) {
  return __ballot_sync(mask, predicate, at) == 0xffffffffu;
}

// ---- device: memory and arithmetic

template <typename T>
T atomicAdd(T* at, T value) {
  static_assert(std::is_integral_v<T>, "float atomics give another sum every time");
  return std::atomic_ref<T>(*at).fetch_add(value, std::memory_order_relaxed);
}
template <typename T>
T atomicMax(T* at, T value) {
  static_assert(std::is_integral_v<T>);
  std::atomic_ref<T> cell(*at);
  T old = cell.load(std::memory_order_relaxed);
  while (old < value && !cell.compare_exchange_weak(old, value, std::memory_order_relaxed)) {
  }
  return old;
}
template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(uint64_t{a} * b >> 32);
}

// ---- vectors of the sizes that one load takes
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
template <typename T>
T __ldg(const T* at) {
  return *at;
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __logf(float x) {
  return std::log(x);
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline double rsqrt(double x) {
  return 1.0 / std::sqrt(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline int __popc(unsigned x) {
  return std::popcount(x);
}
inline int __clz(int x) {
  return std::countl_zero(static_cast<unsigned>(x));
}
inline int __ffs(int x) {
  return x ? std::countr_zero(static_cast<unsigned>(x)) + 1 : 0;
}
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
