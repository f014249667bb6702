#include "cuda/runtime.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/backend.h"
#include "cuda/trace.h"
#include "cuda/vendor/dnn.h"
#include "tensor/storage.h"

namespace facet::cuda {
namespace {

constexpr size_t kSmall = size_t{1} << 20;  // blocks up to here are cut to 512 bytes
constexpr size_t kSmallStep = 512;
constexpr size_t kLargeStep = size_t{2} << 20;
constexpr double kMegabyte = 1 << 20;
constexpr size_t kShownAllocations = 5;

std::atomic<KernelChoice> choice{KernelChoice::vendor};
std::atomic<int64_t> choices{0};
std::atomic<int64_t> blocks_enough{kEnoughBlocks}, blocks_asked{0};

// Calls take(i) where the environment's variable `name` is the i-th of `values`.
template <typename Take>
void read_choice(const char* name, const std::vector<std::string>& values, const Take& take) {
  const char* const text = std::getenv(name);
  if (!text) return;
  const auto found = std::find(values.begin(), values.end(), text);
  if (found == values.end())
    throw UsageError("{}: expected {}, got '{}'", name, fmt::join(values, " or "), text);
  take(static_cast<int>(found - values.begin()));
}

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
    Cache& cache = caches_[owner_];
    const auto found = cache.lower_bound(size);
    Block block{size, owner_};
    void* at = nullptr;
    if (found != cache.end() && found->first <= size + size / 8) {
      at = found->second;
      block.size = found->first;
      statistics_.cached -= block.size;
      cache.erase(found);
    } else {
      at = from_device(size, bytes);
    }
    in_use_[at] = block;
    statistics_.in_use += block.size;
    statistics_.peak_in_use = std::max(statistics_.peak_in_use, statistics_.in_use);
    return at;
  }

  void release(void* at) {
    const std::lock_guard lock(mutex_);
    const auto found = in_use_.find(at);
    const Block block = found->second;
    statistics_.in_use -= block.size;
    statistics_.cached += block.size;
    caches_[block.owner].emplace(block.size, at);
    in_use_.erase(found);
  }

  // From here on memory is taken from and given back to the owner's own blocks; nullptr:
  // everyone's.
  void set_owner(const void* owner) {
    const std::lock_guard lock(mutex_);
    owner_ = owner;
  }
  // What the owner had is everyone's.
  void disown(const void* owner) {
    const std::lock_guard lock(mutex_);
    caches_[nullptr].merge(caches_[owner]);
    caches_.erase(owner);
    for (auto& [at, block] : in_use_)
      if (block.owner == owner) block.owner = nullptr;
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
    for (const auto& [at, block] : in_use_) sizes.push_back(block.size);
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

  // cudaFree waits for the device, so work that still uses a block is over before it goes. That is
  // nothing for a recording, whose work may use it, too.
  void drop_cache() {
    if (owner_) return;
    const DeviceGuard guard(device_);
    for (Cache& cache = caches_[nullptr]; !cache.empty(); cache.erase(cache.begin())) {
      check(cudaFree(cache.begin()->second), "cudaFree");
      statistics_.cached -= cache.begin()->first;
    }
  }

  struct Block {
    size_t size;
    const void* owner;
  };
  using Cache = std::multimap<size_t, void*>;

  int device_;
  std::mutex mutex_;
  const void* owner_ = nullptr;
  std::map<const void*, Cache> caches_;  // by owner
  std::map<void*, Block> in_use_;
  MemoryStatistics statistics_;
};

// Pinned memory that copies to the device pass through, in turn.
class Staging {
 public:
  static constexpr size_t kLargest = size_t{1} << 20;

  void copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    const auto is_free = [&](const Slot& s) {
      if (s.size < bytes) return false;
      const cudaError_t code = cudaEventQuery(s.done.get());
      // No error of the launches that follow.
      if (code == cudaErrorNotReady) static_cast<void>(cudaGetLastError());
      return code == cudaSuccess;
    };
    auto slot = std::find_if(slots_.begin(), slots_.end(), is_free);
    if (slot == slots_.end()) {
      const size_t size = bytes <= kLargest ? rounded(bytes) : std::bit_ceil(bytes);
      slot = slots_.insert(slots_.end(), {size, pinned(size), event(cudaEventDisableTiming)});
    }
    std::memcpy(slot->memory.get(), from, bytes);
    check(cudaMemcpyAsync(to, slot->memory.get(), bytes, cudaMemcpyHostToDevice, stream),
          "cudaMemcpyAsync");
    check(cudaEventRecord(slot->done.get(), stream), "cudaEventRecord");
  }

 private:
  struct Slot {
    size_t size;
    Pinned memory;
    Event done;
  };
  std::mutex mutex_;
  std::vector<Slot> slots_;
};

struct DeviceState {
  explicit DeviceState(int index) : allocator(index) {}
  Allocator allocator;
  Staging staging;
  std::mutex mutex;  // while a stream is made
  std::atomic<cudaStream_t> stream{nullptr}, copies{nullptr};
  Staging sent;
  std::mutex recording;  // while a graph is: nobody else takes memory or looks at the stream
  std::vector<Pinned>* recorded_copies = nullptr;  // while a graph is recorded
};

// Never destroyed: tensors in static variables may outlive everything here.
std::vector<std::unique_ptr<DeviceState>>& devices() {
  static auto* all = new std::vector<std::unique_ptr<DeviceState>>;
  return *all;
}

DeviceState& state_of(int device) {
  if (device < 0 || device >= static_cast<int>(devices().size()))
    throw UsageError("no device cuda:{}: {}", device,
                     devices().empty()
                         ? "CUDA was not installed"
                         : fmt::format("there are cuda:0 to cuda:{}", devices().size() - 1));
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
    throw Error(
        "the CUDA driver is too old: it is of CUDA {}.{}, this program needs {}.{} or newer",
        driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
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

cudaStream_t made_once(std::atomic<cudaStream_t>& place, int device) {
  if (!place) {
    const std::lock_guard lock(state_of(device).mutex);
    const DeviceGuard guard(device);
    cudaStream_t made = place;
    if (!made)
      check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    place = made;
  }
  return place;
}

// What `later` is given from now on waits for what `earlier`, of the current device, was given.
void put_behind(cudaStream_t later, cudaStream_t earlier) {
  const Event given = event(cudaEventDisableTiming);
  check(cudaEventRecord(given.get(), earlier), "cudaEventRecord");
  check(cudaStreamWaitEvent(later, given.get(), 0), "cudaStreamWaitEvent");
}

// The block may have been released by work that is still to be done.
void* send(const void* from, size_t bytes, Device device) {
  DeviceState& state = state_of(device.index);
  const DeviceGuard guard(device.index);
  const cudaStream_t copies = made_once(state.copies, device.index);
  const auto release = [&](void* block) { state.allocator.release(block); };
  std::unique_ptr<void, decltype(release)> to(nullptr, release);
  {
    const std::lock_guard lock(state.recording);
    to.reset(state.allocator.allocate(bytes));
    put_behind(copies, stream(device.index));
  }
  state.sent.copy(to.get(), from, bytes, copies);
  // Asleep: it may take as long as the step that the device works on.
  const Event there = event(cudaEventBlockingSync | cudaEventDisableTiming);
  check(cudaEventRecord(there.get(), copies), "cudaEventRecord");
  check(cudaEventSynchronize(there.get()), "cudaEventSynchronize");
  return to.release();
}

}  // namespace

void install() {
  if (!devices().empty()) return;
  read_choice("FACET_KERNELS", {"vendor", "tuned", "naive"},
              [](int i) { set_kernel_choice(static_cast<KernelChoice>(i)); });
  read_choice("FACET_CONVOLUTION_PLANS", {"first", "fastest"},
              [](int i) { vendor::set_plan_choice(static_cast<vendor::PlanChoice>(i)); });
  const int count = counted_devices();
  for (int i = 0; i < count; ++i) devices().push_back(std::make_unique<DeviceState>(i));
  install_memory(
      DeviceType::cuda,
      {.allocate = [](size_t bytes,
                      Device d) { return state_of(d.index).allocator.allocate(bytes); },
       .release = [](void* at, size_t, Device d) { state_of(d.index).allocator.release(at); },
       .set = set,
       .read = read,
       .send = send});
  const char* const trace = std::getenv("FACET_NVTX");
  const bool is_traced = trace && std::string_view(trace) == "1";
  install_backend(DeviceType::cuda, is_traced ? &traced(cuda_backend()) : &cuda_backend());
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

int64_t enough_blocks() {
  ++blocks_asked;
  return blocks_enough;
}
int64_t enough_blocks_asked() {
  return blocks_asked;
}
void set_enough_blocks(int64_t blocks) {
  blocks_enough = blocks;
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
  return made_once(state_of(device).stream, device);
}
bool in_use(int device) {
  return state_of(device).stream != nullptr;
}
void wait_for(int device, int other) {
  const DeviceGuard guard(other);
  put_behind(stream(device), stream(other));
}
MemoryStatistics memory_statistics(int device) {
  return state_of(device).allocator.statistics();
}
void empty_cache(int device) {
  state_of(device).allocator.empty_cache();
}

void upload(void* to, const void* from, size_t bytes, int device) {
  DeviceState& state = state_of(device);
  const DeviceGuard guard(device);
  std::vector<Pinned>* const kept = state.recorded_copies;
  if (!kept && bytes <= Staging::kLargest)
    return state.staging.copy(to, from, bytes, stream(device));
  if (kept) from = std::memcpy(kept->emplace_back(pinned(bytes)).get(), from, bytes);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream(device)),
        "cudaMemcpyAsync");
  if (!kept) check(cudaStreamSynchronize(stream(device)), "cudaStreamSynchronize");
}

Pinned pinned(size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "cudaMallocHost");
  return {memory, cudaFreeHost};
}
Event event(unsigned flags) {
  cudaEvent_t made = nullptr;
  check(cudaEventCreateWithFlags(&made, flags), "cudaEventCreateWithFlags");
  return {made, cudaEventDestroy};
}

DeviceTimer::DeviceTimer(int device) : device_(device) {
  const DeviceGuard guard(device_);
  for (Event* made : {&begin_, &end_}) *made = event(cudaEventDefault);
}
void DeviceTimer::start() {
  const DeviceGuard guard(device_);
  check(cudaEventRecord(begin_.get(), stream(device_)), "cudaEventRecord");
}
double DeviceTimer::stop() {
  const DeviceGuard guard(device_);
  check(cudaEventRecord(end_.get(), stream(device_)), "cudaEventRecord");
  check(cudaEventSynchronize(end_.get()), "cudaEventSynchronize");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()), "cudaEventElapsedTime");
  return static_cast<double>(milliseconds) * 1e-3;
}

// ---- graphs

Graph::~Graph() {
  clear();
}

void Graph::clear() {  // throws nothing: the device may have failed
  const DeviceGuard guard(device_, std::nothrow);
  if (graph_) {
    static_cast<void>(cudaStreamSynchronize(stream(device_)));
    static_cast<void>(cudaGraphExecDestroy(graph_));
  }
  graph_ = nullptr;
  pinned_.clear();
  state_of(device_).allocator.disown(this);
}

void Graph::record(const std::function<void()>& work) {
  clear();
  DeviceState& state = state_of(device_);
  const DeviceGuard guard(device_);
  const cudaStream_t queue = stream(device_);
  const std::lock_guard lock(state.recording);
  check(cudaStreamSynchronize(queue), "cudaStreamSynchronize");
  state.allocator.empty_cache();  // later it cannot be
  check(cudaStreamBeginCapture(queue, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  state.allocator.set_owner(this);
  state.recorded_copies = &pinned_;
  std::exception_ptr failure;
  try {
    work();
  } catch (...) {
    failure = std::current_exception();
  }
  cudaGraph_t graph = nullptr;
  cudaError_t code = cudaStreamEndCapture(queue, &graph);
  state.allocator.set_owner(nullptr);
  state.recorded_copies = nullptr;
  if (!failure && code == cudaSuccess) code = cudaGraphInstantiate(&graph_, graph, 0);
  if (graph) static_cast<void>(cudaGraphDestroy(graph));
  if (!failure && code == cudaSuccess) return;
  graph_ = nullptr;
  clear();
  static_cast<void>(cudaGetLastError());  // that recording failed is no error of what follows
  if (failure) std::rethrow_exception(failure);
  check(code, "recording a graph");
}

void Graph::replay() {
  const DeviceGuard guard(device_);
  check(cudaGraphLaunch(graph_, stream(device_)), "cudaGraphLaunch");
}

bool recording(int device) {
  return state_of(device).recorded_copies != nullptr;
}

}  // namespace facet::cuda
