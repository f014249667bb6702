#include "cuda/runtime.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/backend.h"
#include "tensor/storage.h"

namespace facet::cuda {
namespace {

constexpr size_t kSmall = size_t{1} << 20;  // blocks up to here are cut to 512 bytes
constexpr size_t kSmallStep = 512;
constexpr size_t kLargeStep = size_t{2} << 20;
constexpr double kMegabyte = 1 << 20;
constexpr size_t kShownAllocations = 5;

std::atomic<KernelChoice> choice{KernelChoice::tuned};
std::atomic<int64_t> choices{0};

// What is asked of the device for `bytes`: steps, so that sizes meet again.
size_t rounded(size_t bytes) {
  const size_t step = bytes <= kSmall ? kSmallStep : kLargeStep;
  return (std::max<size_t>(bytes, 1) + step - 1) / step * step;
}

// The memory of one device.
class Allocator {
 public:
  explicit Allocator(int device) : device_(device) {}

  void* allocate(size_t bytes) {
    const std::lock_guard lock(mutex_);
    const size_t size = rounded(bytes);
    // A cached block may be an eighth larger; more would waste what another tensor needs.
    const auto found = free_.lower_bound(size);
    void* block = nullptr;
    if (found != free_.end() && found->first <= size + size / 8) {
      block = found->second;
      statistics_.cached -= found->first;
      in_use_[block] = found->first;
      free_.erase(found);
    } else {
      block = from_device(size, bytes);
      in_use_[block] = size;
    }
    statistics_.in_use += in_use_[block];
    statistics_.peak_in_use = std::max(statistics_.peak_in_use, statistics_.in_use);
    return block;
  }

  void release(void* block) {
    const std::lock_guard lock(mutex_);
    const auto found = in_use_.find(block);
    statistics_.in_use -= found->second;
    statistics_.cached += found->second;
    free_.emplace(found->second, block);
    in_use_.erase(found);
  }

  void empty_cache() {
    const std::lock_guard lock(mutex_);
    drop_cache();
  }

  MemoryStatistics statistics() {
    const std::lock_guard lock(mutex_);
    return statistics_;
  }

 private:
  void* from_device(size_t size, size_t asked) {
    const DeviceGuard guard(device_);
    void* block = nullptr;
    cudaError_t code = cudaMalloc(&block, size);
    if (code == cudaErrorMemoryAllocation) {
      static_cast<void>(cudaGetLastError());
      drop_cache();
      code = cudaMalloc(&block, size);
    }
    if (code == cudaErrorMemoryAllocation) {
      static_cast<void>(cudaGetLastError());
      throw Error(out_of_memory(asked), ExitCode::out_of_memory);
    }
    check(code, "cudaMalloc");
    ++statistics_.device_allocations;
    return block;
  }

  std::string out_of_memory(size_t asked) const {
    size_t free = 0, total = 0;
    static_cast<void>(cudaMemGetInfo(&free, &total));
    std::vector<size_t> sizes;
    for (const auto& [block, size] : in_use_) sizes.push_back(size);
    std::sort(sizes.rbegin(), sizes.rend());
    std::string largest;
    for (size_t i = 0; i < std::min(sizes.size(), kShownAllocations); ++i)
      largest += fmt::format("{}{:.1f}", i ? ", " : "", static_cast<double>(sizes[i]) / kMegabyte);
    return fmt::format(
        "out of memory on cuda:{}: asked for {:.1f} MiB, {:.1f} of {:.1f} MiB are free, {} tensors "
        "hold {:.1f} MiB (largest: {}); try a smaller --batch-size, --image-size or --width",
        device_, static_cast<double>(asked) / kMegabyte, static_cast<double>(free) / kMegabyte,
        static_cast<double>(total) / kMegabyte, sizes.size(),
        static_cast<double>(statistics_.in_use) / kMegabyte, largest.empty() ? "none" : largest);
  }

  // cudaFree waits for the device, so work that still uses a block is over before it goes.
  void drop_cache() {
    const DeviceGuard guard(device_);
    for (const auto& [size, block] : free_) static_cast<void>(cudaFree(block));
    free_.clear();
    statistics_.cached = 0;
  }

  int device_;
  std::mutex mutex_;
  std::multimap<size_t, void*> free_;
  std::map<void*, size_t> in_use_;
  MemoryStatistics statistics_;
};

struct DeviceState {
  explicit DeviceState(int index) : allocator(index) {
    const DeviceGuard guard(index);
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  Allocator allocator;
  cudaStream_t stream = nullptr;
};

// Never destroyed: tensors in static variables may outlive everything here.
std::vector<std::unique_ptr<DeviceState>>& devices() {
  static auto* all = new std::vector<std::unique_ptr<DeviceState>>;
  return *all;
}

DeviceState& state_of(int device) {
  if (device < 0 || device >= static_cast<int>(devices().size()))
    throw UsageError(fmt::format(
        "no device cuda:{}: {}", device,
        devices().empty() ? "CUDA was not installed"
                          : fmt::format("there are cuda:0 to cuda:{}", devices().size() - 1)));
  return *devices()[static_cast<size_t>(device)];
}

int counted_devices() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaErrorInsufficientDriver) {
    int driver = 0, runtime = 0;
    static_cast<void>(cudaDriverGetVersion(&driver));
    static_cast<void>(cudaRuntimeGetVersion(&runtime));
    if (driver == 0) throw Error("no CUDA driver was found; run with --device cpu");
    throw Error(fmt::format(
        "the CUDA driver is too old: it is of CUDA {}.{}, this program needs {}.{} or newer",
        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10));
  }
  if (code == cudaErrorNoDevice || (code == cudaSuccess && count == 0))
    throw Error("no CUDA device was found; run with --device cpu");
  check(code, "cudaGetDeviceCount");
  return count;
}

void set(void* at, int value, size_t bytes, Device device) {
  const DeviceGuard guard(device.index);
  check(cudaMemsetAsync(at, value, bytes, stream(device.index)), "cudaMemsetAsync");
}
void read(void* to, const void* at, size_t bytes, Device device) {
  const DeviceGuard guard(device.index);
  check(cudaMemcpyAsync(to, at, bytes, cudaMemcpyDeviceToHost, stream(device.index)),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream(device.index)), "cudaStreamSynchronize");
}

}  // namespace

void install() {
  if (!devices().empty()) return;
  const int count = counted_devices();
  for (int i = 0; i < count; ++i) devices().push_back(std::make_unique<DeviceState>(i));
  install_memory(
      DeviceType::cuda,
      {.allocate = [](size_t bytes,
                      Device d) { return state_of(d.index).allocator.allocate(bytes); },
       .release = [](void* at, size_t, Device d) { state_of(d.index).allocator.release(at); },
       .set = set,
       .read = read});
  install_backend(DeviceType::cuda, &cuda_backend());
}

KernelChoice kernel_choice() {
  ++choices;
  return choice;
}
void set_kernel_choice(KernelChoice wanted) {
  choice = wanted;
}
int64_t kernel_choices() {
  return choices;
}

int device_count() {
  return static_cast<int>(devices().size());
}

std::string device_description(int device) {
  cudaDeviceProp p;
  check(cudaGetDeviceProperties(&p, device), "cudaGetDeviceProperties");
  return fmt::format("{}, compute capability {}.{}, {} multiprocessors, {:.0f} GiB", p.name,
                     p.major, p.minor, p.multiProcessorCount,
                     static_cast<double>(p.totalGlobalMem) / (kMegabyte * 1024));
}

cudaStream_t stream(int device) {
  return state_of(device).stream;
}
MemoryStatistics memory_statistics(int device) {
  return state_of(device).allocator.statistics();
}
void empty_cache(int device) {
  state_of(device).allocator.empty_cache();
}

}  // namespace facet::cuda
