// What the address and the thread sanitizer have to be told about fibers and arenas; nothing in
// ordinary builds. The thread sanitizer sees one context of its own for each emulated thread, and
// an order between them only where a barrier makes one. The sources that include this are compiled
// without instrumentation, hence FACET_ASAN and FACET_TSAN instead of __SANITIZE_...__.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__) && !defined(FACET_ASAN)
#define FACET_ASAN  // sanitized by flags of the builder's own
#endif
#if defined(FACET_ASAN)
#include <sanitizer/asan_interface.h>  // its macros do nothing in sources without instrumentation
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(FACET_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace facet::emu::sanitizers {

// ---- address sanitizer
inline void start_switch([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* bottom,
                         [[maybe_unused]] size_t bytes) {
#if defined(FACET_ASAN)
  __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
#endif
}
inline void finish_switch([[maybe_unused]] void* fake_stack,
                          [[maybe_unused]] const void** previous_bottom,
                          [[maybe_unused]] size_t* previous_bytes) {
#if defined(FACET_ASAN)
  __sanitizer_finish_switch_fiber(fake_stack, previous_bottom, previous_bytes);
#endif
}
// A stack whose frames are given up, or memory handed out again.
inline void forget_stack([[maybe_unused]] const void* bottom, [[maybe_unused]] size_t bytes) {
#if defined(FACET_ASAN)
  __asan_unpoison_memory_region(bottom, bytes);
#endif
}
inline void poison([[maybe_unused]] const void* at, [[maybe_unused]] size_t bytes) {
#if defined(FACET_ASAN)
  __asan_poison_memory_region(at, bytes);
#endif
}
inline void unpoison([[maybe_unused]] const void* at, [[maybe_unused]] size_t bytes) {
#if defined(FACET_ASAN)
  __asan_unpoison_memory_region(at, bytes);
#endif
}

// ---- thread sanitizer
#if defined(FACET_TSAN)
constexpr bool kWatchesThreads = true;
#else
constexpr bool kWatchesThreads = false;
#endif

inline void* create_context() {
#if defined(FACET_TSAN)
  return __tsan_create_fiber(0);
#else
  return nullptr;
#endif
}
inline void destroy_context([[maybe_unused]] void* context) {
#if defined(FACET_TSAN)
  __tsan_destroy_fiber(context);
#endif
}
inline void* current_context() {
#if defined(FACET_TSAN)
  return __tsan_get_current_fiber();
#else
  return nullptr;
#endif
}
// Without an order between the two.
inline void switch_context([[maybe_unused]] void* context) {
#if defined(FACET_TSAN)
  __tsan_switch_to_fiber(context, __tsan_switch_to_fiber_no_sync);
#endif
}
// What happened before release(at) is seen after acquire(at).
inline void release([[maybe_unused]] void* at) {
#if defined(FACET_TSAN)
  __tsan_release(at);
#endif
}
inline void acquire([[maybe_unused]] void* at) {
#if defined(FACET_TSAN)
  __tsan_acquire(at);
#endif
}

}  // namespace facet::emu::sanitizers
