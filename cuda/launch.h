// How kernels are launched and where they keep shared memory, on a GPU and in the emulator alike:
//   launch<scale_kernel<float>>(grid, block, shared_bytes, stream, x, n);
// never <<<>>>, so that the same source runs without a GPU.
#pragma once

#include <cuda_runtime.h>

#include <string_view>
#include <utility>

#include "cuda/error.h"

#if defined(FACET_CUDA_EMULATED)
#include "cuda/emu/runtime.h"
// SHARED_ARRAY(type, name, count): an array of the block, as __shared__ type name[count].
#define SHARED_ARRAY(type, name, count)                             \
  static const char name##_key = 0;                                 \
  type* const name = static_cast<type*>(::facet::emu::shared_array( \
      &name##_key, sizeof(type) * (count), alignof(type) > 16 ? alignof(type) : 16))
#define DEVICE_CHECK(condition)                                                          \
  do {                                                                                   \
    if (!(condition))                                                                    \
      ::facet::emu::device_fail("failed: " #condition, std::source_location::current()); \
  } while (false)
#else
#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
#define DEVICE_CHECK(condition) \
  do {                          \
    if (!(condition)) __trap(); \
  } while (false)
#endif

namespace facet::cuda {

// The launch's dynamic shared memory.
template <typename T>
__device__ T* dynamic_shared() {
#if defined(FACET_CUDA_EMULATED)
  return static_cast<T*>(emu::dynamic_shared_memory());
#else
  extern __shared__ __align__(128) unsigned char facet_dynamic_shared[];
  return reinterpret_cast<T*>(facet_dynamic_shared);
#endif
}

namespace detail {

// "scale_kernel<float>" out of what the compiler calls the function template below.
constexpr std::string_view kernel_name(std::string_view pretty) {
  const size_t begin = pretty.find("Kernel = ") + 9;
  size_t end = pretty.find_first_of(";]", begin);
  std::string_view name = pretty.substr(begin, end - begin);
  if (name.starts_with('&')) name.remove_prefix(1);
  return name;
}

#if defined(FACET_CUDA_EMULATED)
// Every kernel that the program could launch is known by name before main(): what is never run is
// found by the tests.
template <auto Kernel>
struct Registered {
  static const char* name() {
    static const std::string text(kernel_name(__PRETTY_FUNCTION__));
    return text.c_str();
  }
  inline static const bool done = emu::register_kernel(name());
};
#endif

template <auto Kernel, typename... Parameters>
void launch(void (*)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, std::type_identity_t<Parameters>... arguments) {
#if defined(FACET_CUDA_EMULATED)
  static_cast<void>(Registered<Kernel>::done);
  emu::enqueue_kernel(stream, Registered<Kernel>::name(),
                      {{grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes},
                      [=] { Kernel(arguments...); });
#else
  constexpr size_t kWithoutAsking = size_t{48} << 10;
  if (shared_bytes > kWithoutAsking) {
    // All that the device has: 163 KiB on sm_80, 227 KiB on sm_90.
    static thread_local int allowed_on = -1;
    int device = 0, most = 0;
    cudaFuncAttributes own{};
    check(cudaGetDevice(&device), "cudaGetDevice");
    if (device != allowed_on) {
      check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            "cudaDeviceGetAttribute");
      check(cudaFuncGetAttributes(&own, reinterpret_cast<const void*>(Kernel)),
            "cudaFuncGetAttributes");
      check(cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 most - static_cast<int>(own.sharedSizeBytes)),
            "cudaFuncSetAttribute");
      allowed_on = device;
    }
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, Kernel, arguments...), "launch");
#endif
  check(cudaPeekAtLastError(), "launch");
}

}  // namespace detail

template <auto Kernel, typename... Arguments>
void launch(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            Arguments&&... arguments) {
  detail::launch<Kernel>(Kernel, grid, block, shared_bytes, stream,
                         std::forward<Arguments>(arguments)...);
}

}  // namespace facet::cuda
