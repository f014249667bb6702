// Host memory that is kept instead of returned: a training step asks for the same sizes again and
// again, and fresh pages cost more than the arithmetic on them (docs/benchmarks/).
#pragma once

#include <cstddef>

namespace facet {

// 64-byte aligned, uninitialised; blocks of 2 MiB and more ask the kernel for huge pages.
// Throws Error with ExitCode::out_of_memory.
void* cpu_allocate(size_t bytes);
void cpu_release(void* data, size_t bytes);

struct AllocatorStats {
  size_t in_use = 0;    // bytes handed out
  size_t reserved = 0;  // bytes held from the system
  size_t peak = 0;      // largest in_use
};
AllocatorStats cpu_allocator_stats();
void cpu_allocator_trim();  // gives cached blocks back to the system

}  // namespace facet
