#include "cuda/emu/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda/emu/error.h"
#include "tensor/check.h"
#include "tensor/text.h"

namespace facet::emu {

using Clock = std::chrono::steady_clock;

struct Event {
  int device = 0;
  uint64_t recorded = 0, done = 0;  // how often
  Stream* stream = nullptr;         // where it was recorded last
  bool captured = false;            // ... in a capture
  Clock::time_point when;
  std::shared_ptr<Event> self;  // until it is destroyed; work that needs it has it, too
};

// One piece of work in a stream.
using Work = std::function<void()>;

struct Graph {
  std::vector<Work> work;
};

struct Stream {
  int device = 0;
  std::deque<Work> queue;
  std::unique_ptr<Graph> capture;  // where work goes instead while a graph is recorded
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool spoilt = false;  // the capture, by a call that it does not allow
  bool running = false;
  std::thread::id runner;  // while it runs
};

namespace {

// The emulator's state belongs to all threads: ranks are threads with a device each.
std::recursive_mutex& mutex() {
  static auto* instance = new std::recursive_mutex;
  return *instance;
}
using Lock = std::lock_guard<std::recursive_mutex>;

// Told of new work, of work that is done and of faults. Who waits for it holds the mutex once.
std::condition_variable_any& changed() {
  static auto* instance = new std::condition_variable_any;
  return *instance;
}

struct Allocation {
  size_t bytes;
  int device;  // -1: pinned host memory
};

struct State {
  Machine machine;
  FaultPlan faults;
  std::map<const void*, Allocation> allocations;
  std::vector<Stream*> streams;
  std::map<int, std::unique_ptr<Stream>> default_streams;
  cudaError_t sticky = cudaSuccess;  // after a device fault every call returns it
  std::string fault;
};
State& state() {
  static auto* instance = [] {
    auto* made = new State;
    Machine& m = made->machine;
    FaultPlan& f = made->faults;
    const std::map<std::string, std::function<void(int64_t)>> settings = {
        {"devices", [&](int64_t v) { m.devices = static_cast<int>(v); }},
        {"driver", [&](int64_t v) { m.driver_version = static_cast<int>(v); }},
        {"memory", [&](int64_t v) { m.memory_bytes = static_cast<size_t>(v); }},
        {"broken_device", [&](int64_t v) { m.broken_device = static_cast<int>(v); }},
        {"kernel_image", [&](int64_t v) { m.kernel_image = v != 0; }},
        {"vendor_libraries", [&](int64_t v) { m.vendor_libraries = v != 0; }},
        {"vendor_handles", [&](int64_t v) { m.vendor_handles = v != 0; }},
        {"fail_allocation", [&](int64_t v) { f.fail_allocation = v; }},
        {"fail_launch", [&](int64_t v) { f.fail_launch = v; }},
        {"fail_collective", [&](int64_t v) { f.fail_collective = v; }}};
    const char* text = std::getenv("FACET_EMU_MACHINE");
    for (const std::string& word : split_list(text ? text : "")) {
      const size_t equals = word.find('=');
      const auto found = settings.find(word.substr(0, equals));
      if (found == settings.end())
        throw UsageError("FACET_EMU_MACHINE: unknown setting '{}'", word);
      found->second(equals == std::string::npos ? 0 : std::atoll(word.c_str() + equals + 1));
    }
    return made;
  }();
  return *instance;
}

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

// The way out of every call that needs a context on the current device: the sticky error wins, and
// the last one is remembered.
cudaError_t leave(cudaError_t error) {
  if (current_device == state().machine.broken_device) error = cudaErrorDevicesUnavailable;
  if (state().sticky != cudaSuccess) error = state().sticky;
  if (error != cudaSuccess) last_error = error;
  return error;
}

Stream& stream_of(cudaStream_t stream) {
  if (stream) return *stream;
  auto& slot = state().default_streams[current_device];
  if (!slot) {
    slot = std::make_unique<Stream>();
    slot->device = current_device;
    state().streams.push_back(slot.get());
  }
  return *slot;
}

void set_fault(cudaError_t error, std::string what) {
  state().sticky = error;
  state().fault = std::move(what);
  for (Stream* stream : state().streams) stream->queue.clear();
  changed().notify_all();
}

// Does the stream's work, in order, up to the end or as long as go_on() says.
template <typename GoOn>
void drain(Stream& stream, const GoOn& go_on) {
  const auto self = std::this_thread::get_id();
  changed().wait(mutex(), [&] { return !stream.running || stream.runner == self || !go_on(); });
  if (stream.running) return;  // it waits for an event of a stream that waits for it
  stream.running = true;
  stream.runner = self;
  while (!stream.queue.empty() && state().sticky == cudaSuccess && go_on()) {
    const Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    try {
      work();
    } catch (const KernelFault& e) {
      set_fault(cudaErrorLaunchFailure, e.what());
    }
  }
  stream.running = false;
  changed().notify_all();
}
void drain(Stream& stream) {
  drain(stream, [] { return true; });
}
void drain_device(int device) {
  // By index: a stream may be made while another one runs.
  for (size_t i = 0; i < state().streams.size(); ++i)
    if (state().streams[i]->device == device) drain(*state().streams[i]);
}

void wait_for(Event& event, uint64_t record) {
  const auto is_ahead = [&] { return event.done < record; };
  if (event.stream && is_ahead()) drain(*event.stream, is_ahead);
}

cudaError_t push(Stream& stream, Work work) {
  if (state().sticky != cudaSuccess) return leave(state().sticky);
  if (stream.capture && stream.spoilt) return leave(cudaErrorStreamCaptureInvalidated);
  if (stream.capture)
    stream.capture->work.push_back(std::move(work));
  else
    stream.queue.push_back(std::move(work));
  changed().notify_all();
  return leave(cudaSuccess);
}

// Whether a capture forbids a call (cudaErrorStreamCaptureUnsupported) and is spoilt by it: in the
// relaxed mode one that waits for its device, in the others one that allocates, too; here for all
// threads. Freeing waits; that CUDA lets it pass in the relaxed mode is nowhere promised.
bool capture_forbids(bool waits, int device) {
  bool any = false;
  for (Stream* s : state().streams)
    if (s->capture && (s->mode != cudaStreamCaptureModeRelaxed || (waits && s->device == device)))
      any = s->spoilt = true;
  return any;
}

// The allocation that [at, at + bytes) lies in, or none.
const Allocation* find(const void* at, size_t bytes) {
  auto it = state().allocations.upper_bound(at);
  if (it == state().allocations.begin()) return nullptr;
  --it;
  const auto* const begin = static_cast<const std::byte*>(it->first);
  const auto* const from = static_cast<const std::byte*>(at);
  return from + bytes <= begin + it->second.bytes ? &it->second : nullptr;
}

// Whether a copy's ends are where `kind` says.
bool copy_fits(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const auto on_device = [&](const void* at) {
    const Allocation* a = find(at, bytes);
    return a && a->device >= 0;
  };
  // A host address may not begin in device memory, either.
  const auto on_host = [&](const void* at) {
    const Allocation* a = find(at, 1);
    return !a || a->device < 0;
  };
  switch (kind) {
    case cudaMemcpyHostToDevice: return on_device(to) && on_host(from);
    case cudaMemcpyDeviceToHost: return on_host(to) && on_device(from);
    case cudaMemcpyDeviceToDevice: return on_device(to) && on_device(from);
  }
  return false;
}

size_t used_bytes(int device) {
  size_t sum = 0;
  for (const auto& [at, allocation] : state().allocations)
    if (allocation.device == device) sum += allocation.bytes;
  return sum;
}

cudaError_t allocate(void** at, size_t bytes, int device) {
  *at = nullptr;
  if (state().sticky != cudaSuccess) return leave(state().sticky);
  if (capture_forbids(false, device)) return leave(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return leave(cudaSuccess);
  FaultPlan& faults = state().faults;
  int64_t& left = device >= 0 ? faults.fail_allocation : faults.fail_host_allocation;
  if (left >= 0 && left-- == 0) return leave(cudaErrorMemoryAllocation);
  if (device >= 0 && used_bytes(device) + bytes > state().machine.memory_bytes)
    return leave(cudaErrorMemoryAllocation);
  // Of its own size, so that the address sanitizer knows its end; NaN to whoever reads it first.
  void* const memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!memory) return leave(cudaErrorMemoryAllocation);
  std::memset(memory, 0xff, bytes);
  state().allocations[memory] = {bytes, device};
  *at = memory;
  return leave(cudaSuccess);
}

cudaError_t release(void* at, bool on_device) {
  if (!at) return leave(cudaSuccess);
  const auto it = state().allocations.find(at);
  if (it == state().allocations.end() || (it->second.device >= 0) != on_device)
    return leave(cudaErrorInvalidValue);
  if (capture_forbids(on_device, it->second.device))
    return leave(cudaErrorStreamCaptureUnsupported);
  // As on a device: freeing waits for what still runs.
  if (on_device) drain_device(it->second.device);
  state().allocations.erase(it);
  std::free(at);
  return leave(cudaSuccess);
}

}  // namespace

void enqueue_kernel(cudaStream_t stream_, const char* kernel, const LaunchShape& shape,
                    std::function<void()> body) {
  const Lock lock(mutex());
  Stream& stream = stream_of(stream_);
  const auto threads = size_t{shape.block.x} * shape.block.y * shape.block.z;
  if (threads == 0 || threads > kMaxThreads || threads % kWarpSize != 0 || shape.block.z > 64 ||
      shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0 || shape.grid.x > 0x7fffffffu ||
      shape.grid.y > 65535 || shape.grid.z > 65535 ||
      shape.dynamic_shared_bytes > kMaxSharedBytes) {
    state().fault = fmt::format(
        "{}: grid ({}, {}, {}), block ({}, {}, {}), {} bytes of shared memory: expected whole "
        "warps, at most 1024 threads, y and z of the grid at most 65535, at most {} bytes",
        kernel, shape.grid.x, shape.grid.y, shape.grid.z, shape.block.x, shape.block.y,
        shape.block.z, shape.dynamic_shared_bytes, kMaxSharedBytes);
    return static_cast<void>(leave(cudaErrorInvalidConfiguration));
  }
  if (stream.device != current_device) {
    state().fault = fmt::format("{}: its stream is of device {}, current is {}", kernel,
                                stream.device, current_device);
    return static_cast<void>(leave(cudaErrorInvalidResourceHandle));
  }
  if (!machine().kernel_image) return static_cast<void>(leave(cudaErrorNoKernelImageForDevice));
  push(stream, [=, body = std::move(body)] {
    FaultPlan& faults = state().faults;
    if (faults.fail_launch >= 0 && faults.fail_launch-- == 0)
      throw KernelFault(fmt::format("{}: an illegal memory access (planned)", kernel));
    run_grid(kernel, shape, body);
  });
}

void enqueue(cudaStream_t stream, std::function<void()> work) {
  const Lock lock(mutex());
  push(stream_of(stream), std::move(work));
}

std::unique_lock<std::recursive_mutex> lock() {
  return std::unique_lock(mutex());
}

void wait_in_work(const std::function<bool()>& ready, std::span<const cudaStream_t> others) {
  while (!ready() && state().sticky == cudaSuccess) {
    const auto idle = std::find_if(others.begin(), others.end(), [](const Stream* s) {
      return s && !s->running && !s->queue.empty();
    });
    if (idle == others.end())
      changed().wait(mutex());
    else
      drain(**idle, [&] { return !ready(); });
  }
}
void tell_waiting() {
  const Lock lock(mutex());
  changed().notify_all();
}

bool is_device_memory(const void* at, size_t bytes, int device) {
  const Lock lock(mutex());
  const Allocation* const found = find(at, bytes);
  return found && found->device == device;
}
int device_of(cudaStream_t stream) {
  const Lock lock(mutex());
  return stream_of(stream).device;
}

std::string last_fault() {
  const Lock lock(mutex());
  return state().fault;
}
Machine& machine() {
  return state().machine;
}
void plan_faults(const FaultPlan& plan) {
  const Lock lock(mutex());
  state().faults = plan;
}
FaultPlan faults() {
  const Lock lock(mutex());
  return state().faults;
}
void reset() {
  const Lock lock(mutex());
  State& s = state();
  for (Stream* stream : s.streams) {
    stream->queue.clear();
    stream->capture.reset();
  }
  s.machine = {};
  s.faults = {};
  s.sticky = last_error = cudaSuccess;
  s.fault.clear();
}

}  // namespace facet::emu

using namespace facet::emu;

// ---- errors and devices

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) { FACET_CUDA_ERRORS(FACET_NAME_CASE) }
  return "unknown";
}
const char* cudaGetErrorString(cudaError_t error) {
  return cudaGetErrorName(error);
}
cudaError_t cudaPeekAtLastError() {
  const Lock lock(mutex());
  return state().sticky != cudaSuccess ? state().sticky : last_error;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = machine().driver_version;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  const Lock lock(mutex());
  *count = 0;
  if (machine().driver_version < 13000) return leave(cudaErrorInsufficientDriver);
  if (machine().devices == 0) return leave(cudaErrorNoDevice);
  *count = machine().devices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  const Lock lock(mutex());
  if (device < 0 || device >= machine().devices) return leave(cudaErrorInvalidDevice);
  // From CUDA 12 on this makes the context.
  if (device == machine().broken_device) return last_error = cudaErrorDevicesUnavailable;
  current_device = device;
  return leave(cudaSuccess);
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const Lock lock(mutex());
  if (device < 0 || device >= machine().devices) return leave(cudaErrorInvalidDevice);
  *properties = {};
  std::strcpy(properties->name, "emulated device");
  properties->totalGlobalMem = machine().memory_bytes;
  properties->sharedMemPerBlockOptin = kMaxSharedBytes;
  properties->major = 9;
  properties->multiProcessorCount = 2;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
  cudaDeviceProp p;
  const cudaError_t error = cudaGetDeviceProperties(&p, device);
  *value = static_cast<int>(p.sharedMemPerBlockOptin);
  return error;
}
cudaError_t cudaDeviceSynchronize() {
  const Lock lock(mutex());
  if (capture_forbids(true, current_device)) return leave(cudaErrorStreamCaptureUnsupported);
  drain_device(current_device);
  return leave(cudaSuccess);
}

// ---- memory

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Lock lock(mutex());
  *total = machine().memory_bytes;
  *free = *total - std::min(*total, used_bytes(current_device));
  return leave(cudaSuccess);
}
cudaError_t cudaMalloc(void** at, size_t bytes) {
  const Lock lock(mutex());
  return allocate(at, bytes, current_device);
}
cudaError_t cudaFree(void* at) {
  const Lock lock(mutex());
  return release(at, true);
}
cudaError_t cudaMallocHost(void** at, size_t bytes) {
  const Lock lock(mutex());
  return allocate(at, bytes, -1);
}
cudaError_t cudaFreeHost(void* at) {
  const Lock lock(mutex());
  return release(at, false);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Lock lock(mutex());
  if (bytes == 0) return leave(cudaSuccess);
  if (!copy_fits(to, from, bytes, kind)) {
    state().fault = fmt::format("cudaMemcpy of {} bytes: an end is not where its kind says", bytes);
    return leave(cudaErrorInvalidValue);
  }
  return push(stream_of(stream), [=] { std::memcpy(to, from, bytes); });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const Lock lock(mutex());
  // As the legacy default stream: after everything that was enqueued on the device.
  drain_device(current_device);
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  drain(stream_of(nullptr));
  return leave(error);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const Lock lock(mutex());
  if (bytes == 0) return leave(cudaSuccess);
  const Allocation* a = find(to, bytes);
  if (!a || a->device < 0) return leave(cudaErrorInvalidValue);
  return push(stream_of(stream), [=] { std::memset(to, value, bytes); });
}

// ---- streams and events

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Lock lock(mutex());
  *stream = new Stream;
  (*stream)->device = current_device;
  state().streams.push_back(*stream);
  return leave(cudaSuccess);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock lock(mutex());
  if (!stream) return leave(cudaErrorInvalidResourceHandle);
  drain(*stream);
  std::erase(state().streams, stream);
  delete stream;
  return leave(cudaSuccess);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(mutex());
  Stream& s = stream_of(stream);
  if (s.capture && capture_forbids(true, s.device)) return leave(cudaErrorStreamCaptureUnsupported);
  drain(s);
  return leave(cudaSuccess);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock(mutex());
  return stream_of(stream).queue.empty() ? leave(cudaSuccess) : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Lock lock(mutex());
  if (!event) return leave(cudaErrorInvalidResourceHandle);
  if (event->captured && !stream_of(stream).capture) {  // the stream would join the capture
    event->stream->spoilt = true;
    return leave(cudaErrorStreamCaptureUnsupported);
  }
  return push(stream_of(stream),
              [e = event->self, record = event->recorded] { wait_for(*e, record); });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  const Lock lock(mutex());
  if (const cudaError_t error = leave(cudaSuccess); error != cudaSuccess) return error;
  const auto made = std::make_shared<Event>();
  made->device = current_device;
  made->self = made;
  *event = made.get();
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(mutex());
  if (!event) return leave(cudaErrorInvalidResourceHandle);
  const auto last = std::move(event->self);  // work that is to come may have it, too
  return leave(cudaSuccess);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(mutex());
  if (!event) return leave(cudaErrorInvalidResourceHandle);
  Stream& s = stream_of(stream);
  if (event->device != s.device) return leave(cudaErrorInvalidResourceHandle);
  event->stream = &s;
  event->captured = s.capture != nullptr;
  const uint64_t record = ++event->recorded;
  return push(s, [e = event->self, record] {
    e->done = record;
    e->when = Clock::now();
    changed().notify_all();
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(mutex());
  if (!event) return leave(cudaErrorInvalidResourceHandle);
  wait_for(*event, event->recorded);
  return leave(cudaSuccess);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Lock lock(mutex());
  return event->done == event->recorded ? leave(cudaSuccess) : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const Lock lock(mutex());
  if (!begin || !end || begin->done == 0 || end->done == 0) return leave(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(end->when - begin->when).count();
  return leave(cudaSuccess);
}

// ---- graphs: the work of one stream, recorded and replayed

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const Lock lock(mutex());
  if (!stream || stream->capture) return leave(cudaErrorStreamCaptureUnsupported);
  stream->capture = std::make_unique<Graph>();
  stream->mode = mode;
  stream->spoilt = false;
  return leave(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock(mutex());
  *graph = nullptr;
  auto captured = stream ? std::move(stream->capture) : nullptr;
  if (!captured || stream->spoilt) return leave(cudaErrorStreamCaptureInvalidated);
  *graph = captured.release();
  return leave(cudaSuccess);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Lock lock(mutex());
  *status = stream_of(stream).capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return leave(cudaSuccess);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  const Lock lock(mutex());
  if (state().faults.fail_instantiate) return leave(cudaErrorMemoryAllocation);
  if (const cudaError_t error = leave(cudaSuccess); error != cudaSuccess) return error;
  *exec = new Graph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const Lock lock(mutex());
  if (!exec) return leave(cudaErrorInvalidResourceHandle);
  Stream& s = stream_of(stream);
  for (const Work& work : exec->work)
    if (const cudaError_t error = push(s, work); error != cudaSuccess) return error;
  return leave(cudaSuccess);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
