// Copies from device memory into shared memory that run beside the arithmetic (cp.async, sm_80 and
// later):
//
//   for (...) copy_async(&tile[i], &x[j], inside);  // any number of them
//   commit_copies();                                // closes the group
//   ...
//   wait_copies<N>();  // all of this thread's groups but the newest N have arrived
//   __syncthreads();   // so have those of the block's other threads
//
// Here and in mma.cuh are all of facet's PTX instructions, each beside its emulated twin. The
// emulator spoils the destination at once and copies when the thread waits for the group: who
// forgets to wait, or copies over what others still read, sees NaN.
#pragma once

#include "cuda/launch.h"

namespace facet::cuda {

#if defined(FACET_CUDA_EMULATED)

namespace detail {
inline void require_aligned(const void* at, std::source_location where) {
  if (reinterpret_cast<uintptr_t>(at) % 16 != 0)
    emu::device_fail("an address that is not a multiple of 16", where);
}
}  // namespace detail

inline void copy_async(void* shared, const void* global, bool inside,
                       std::source_location where = std::source_location::current()) {
  detail::require_aligned(shared, where);
  if (inside) detail::require_aligned(global, where);
  std::memset(shared, 0xff, 16);
  emu::AsyncCopies& copies = emu::async_copies();
  copies.waiting.push_back({shared, inside ? global : nullptr, copies.group});
}
inline void commit_copies() {
  ++emu::async_copies().group;
}
template <int kPending>
void wait_copies() {
  emu::AsyncCopies& copies = emu::async_copies();
  std::erase_if(copies.waiting, [&](const emu::AsyncCopies::Copy& copy) {
    if (copy.group + kPending >= copies.group) return false;
    if (copy.from)
      std::memcpy(copy.to, copy.from, 16);
    else
      std::memset(copy.to, 0, 16);
    return true;
  });
}

#else

// 16 bytes from `global` to `shared`, both multiples of 16; zeros where not `inside`, and then
// `global` is not read. The bytes pass by the L1 cache.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool inside) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared))),
               "l"(__cvta_generic_to_global(global)), "r"(inside ? 16 : 0)
               : "memory");
}
// The copies since the last call are a group, be there none.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#endif

}  // namespace facet::cuda
