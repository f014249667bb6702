#include "tensor/cpu/allocator.h"

#include <sys/mman.h>

#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "tensor/check.h"

namespace facet {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// Size classes: eight steps a power of two, so that at most 1/8 of a block is wasted.
size_t round_up(size_t bytes) {
  if (bytes <= 64) return 64;
  const size_t step = std::max<size_t>(std::bit_ceil(bytes) / 16, 64);
  return (bytes + step - 1) / step * step;
}

// To be used under its lock.
struct Cache {
  std::mutex mutex;
  std::map<size_t, std::vector<void*>> free;
  AllocatorStats stats;

  void* take(size_t size) {
    const auto found = free.find(size);
    if (found == free.end() || found->second.empty()) return nullptr;
    void* block = found->second.back();
    found->second.pop_back();
    return block;
  }

  void* fresh(size_t size) {
    const size_t alignment = size >= kHugePage ? kHugePage : 64;
    void* block = nullptr;
    if (posix_memalign(&block, alignment, size) != 0) {
      trim();
      if (posix_memalign(&block, alignment, size) != 0)
        throw Error(fmt::format("out of memory: requested {:.1f} MiB, {:.1f} MiB in use; try a "
                                "smaller batch or image size",
                                size / 1048576.0, stats.in_use / 1048576.0),
                    ExitCode::out_of_memory);
    }
    if (size >= kHugePage) madvise(block, size, MADV_HUGEPAGE);
    stats.reserved += size;
    return block;
  }

  void trim() {
    for (auto& [size, blocks] : free) {
      for (void* block : blocks) std::free(block);
      stats.reserved -= size * blocks.size();
    }
    free.clear();
  }
};

// Never destroyed: tensors in static objects may outlive any order of destruction.
Cache& cache() {
  static auto* instance = new Cache;
  return *instance;
}

}  // namespace

void* cpu_allocate(size_t bytes) {
  const size_t size = round_up(bytes);
  const std::lock_guard lock(cache().mutex);
  AllocatorStats& stats = cache().stats;
  void* block = cache().take(size);
  if (!block) block = cache().fresh(size);
  stats.in_use += size;
  stats.peak = std::max(stats.peak, stats.in_use);
  return block;
}
void cpu_release(void* data, size_t bytes) {
  const size_t size = round_up(bytes);
  const std::lock_guard lock(cache().mutex);
  cache().free[size].push_back(data);
  cache().stats.in_use -= size;
}
AllocatorStats cpu_allocator_stats() {
  const std::lock_guard lock(cache().mutex);
  return cache().stats;
}
void cpu_allocator_trim() {
  const std::lock_guard lock(cache().mutex);
  cache().trim();
}

}  // namespace facet
