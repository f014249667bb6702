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

class CachingAllocator {
 public:
  void* allocate(size_t bytes) {
    const size_t size = round_up(bytes);
    std::lock_guard lock(mutex_);
    void* block = take_cached(size);
    if (!block) block = fresh(size);
    stats_.in_use += size;
    stats_.peak = std::max(stats_.peak, stats_.in_use);
    return block;
  }

  void release(void* block, size_t bytes) {
    const size_t size = round_up(bytes);
    std::lock_guard lock(mutex_);
    free_[size].push_back(block);
    stats_.in_use -= size;
  }

  void trim() {
    std::lock_guard lock(mutex_);
    trim_locked();
  }

  AllocatorStats stats() {
    std::lock_guard lock(mutex_);
    return stats_;
  }

 private:
  void* take_cached(size_t size) {
    const auto found = free_.find(size);
    if (found == free_.end() || found->second.empty()) return nullptr;
    void* block = found->second.back();
    found->second.pop_back();
    return block;
  }

  void* fresh(size_t size) {
    const size_t alignment = size >= kHugePage ? kHugePage : 64;
    void* block = nullptr;
    if (posix_memalign(&block, alignment, size) != 0) {
      trim_locked();
      if (posix_memalign(&block, alignment, size) != 0)
        throw Error(fmt::format("out of memory: requested {:.1f} MiB, {:.1f} MiB in use; try a "
                                "smaller batch or image size",
                                size / 1048576.0, stats_.in_use / 1048576.0),
                    ExitCode::out_of_memory);
    }
    if (size >= kHugePage) madvise(block, size, MADV_HUGEPAGE);
    stats_.reserved += size;
    return block;
  }

  void trim_locked() {
    for (auto& [size, blocks] : free_) {
      for (void* block : blocks) std::free(block);
      stats_.reserved -= size * blocks.size();
    }
    free_.clear();
  }

  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
  AllocatorStats stats_;
};

// Never destroyed: tensors in static objects may outlive any order of destruction.
CachingAllocator& allocator() {
  static auto* instance = new CachingAllocator;
  return *instance;
}

}  // namespace

void* cpu_allocate(size_t bytes) {
  return allocator().allocate(bytes);
}
void cpu_release(void* data, size_t bytes) {
  allocator().release(data, bytes);
}
AllocatorStats cpu_allocator_stats() {
  return allocator().stats();
}
void cpu_allocator_trim() {
  allocator().trim();
}

}  // namespace facet
