#include "cuda/emu/block.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "cuda/emu/error.h"
#include "cuda/emu/fiber.h"
#include "cuda/emu/sanitizers.h"
#include "tensor/check.h"
#include "tensor/text.h"

namespace facet::emu {

thread_local const ThreadPlace* place = nullptr;

namespace {

// Unknown data is NaN to whoever forgets to write shared memory before reading it.
constexpr int kUninitialised = 0xff;
// Poisoned bytes between two shared arrays.
constexpr size_t kGapBytes = 64;

std::string show(const Location& at) {
  const std::string file = at.file_name();
  const size_t slash = file.rfind('/');
  return fmt::format("{}:{}", slash == std::string::npos ? file : file.substr(slash + 1),
                     at.line());
}
std::string show(const Index3& i) {
  return fmt::format("({}, {}, {})", i.x, i.y, i.z);
}

// A generator of its own: the schedule must not depend on a library's version.
struct SplitMix {
  uint64_t state;
  uint64_t operator()() {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
};

enum class State : uint8_t { unstarted, ready, at_block, at_warp, done };

struct Thread {
  State state = State::unstarted;
  int fiber = -1;
  Location where;
  ThreadPlace place;
  void* context = nullptr;  // the thread sanitizer's
  AsyncCopies copies;
};

struct Warp {
  uint32_t runnable = 0;  // a bit for each lane that does not wait and is not done
  unsigned waiting = 0, exited = 0;
  uint64_t round = 0;  // completed warp barriers: its parity chooses the slots
  // A lane that goes on writes the other slots; it cannot come back to these before all have read.
  WarpValues slots[2];
};

// Everything that runs blocks on one OS thread; kept between launches.
class Executor {
 public:
  void run(const char* kernel, const LaunchShape& shape, const std::function<void()>& body) {
    if (body_) throw InternalError("emulator: a kernel launches a kernel");
    kernel_ = kernel;
    shape_ = &shape;
    body_ = &body;
    schedule_ = schedule().kind;
    count_ = shape.block.x * shape.block.y * shape.block.z;
    random_ = {schedule().seed * 0x2545f4914f6cdd1du + launches_++};
    host_context_ = sanitizers::current_context();
    struct Reset {
      Executor* executor;
      ~Reset() {
        executor->body_ = nullptr;
        place = nullptr;
      }
    } reset{this};
    for (unsigned z = 0; z < shape.grid.z; ++z)
      for (unsigned y = 0; y < shape.grid.y; ++y)
        for (unsigned x = 0; x < shape.grid.x; ++x) run_block({x, y, z});
  }

  // ---- called by the running thread
  void wait_for_block(Location at, int value) {
    Thread& self = current();
    self.state = State::at_block;
    self.where = at;
    sum_ += value;
    if (at_block_++ == 0) {
      first_barrier_ = at;
    } else if (first_barrier_.line() != at.line() ||
               (first_barrier_.file_name() != at.file_name() &&
                std::strcmp(first_barrier_.file_name(), at.file_name()) != 0)) {
      std::string text =
          fmt::format("divergent barrier: thread {} of the block waits at {}, others at {}",
                      running_, show(at), show(first_barrier_));
      fail(std::move(text));
    }
    char* const order = &barrier_order_[barrier_round_ % 2];
    sanitizers::release(order);
    suspend();
    sanitizers::acquire(order);
  }
  int block_sum() const { return last_sum_; }

  const WarpValues& wait_for_warp(uint32_t mask, const void* value, size_t bytes, Location at) {
    if (mask != 0xffffffffu) {
      std::string text =
          fmt::format("{}: a warp function with mask {:#010x}: facet's kernels take the full mask",
                      show(at), mask);
      fail(std::move(text));
    }
    Thread& self = current();
    Warp& warp = warps_[running_ / kWarpSize];
    WarpValues& slots = warp.slots[warp.round % 2];
    if (bytes > 0) std::memcpy(slots[running_ % kWarpSize].data(), value, bytes);
    if (warp.exited > 0) {
      std::string text =
          fmt::format("{}: {} lanes of warp {} have exited before a warp function that names them",
                      show(at), warp.exited, running_ / kWarpSize);
      fail(std::move(text));
    }
    self.state = State::at_warp;
    self.where = at;
    ++warp.waiting;
    sanitizers::release(&slots);
    suspend();
    sanitizers::acquire(&slots);
    return slots;
  }

  unsigned lane() const { return running_ % kWarpSize; }
  AsyncCopies& async_copies() { return current().copies; }

  void* shared_array(const void* key, size_t bytes, size_t alignment) {
    for (const Array& array : arrays_)
      if (array.key == key) return array.data;
    return add_array(key, bytes, alignment);
  }
  void* dynamic_shared() {
    if (shape_->dynamic_shared_bytes == 0) {
      fail("dynamic_shared: the launch gave no dynamic shared memory");
    }
    return arrays_.front().data;
  }

  // `what` is moved from: the caller's stack is never unwound, so nothing on it may own memory.
  [[noreturn]] void fail(std::string&& what) {
    failure_ = std::move(what);
    sanitizers::release(&end_order_);
    switch_to_host();
    std::abort();  // a failed block is never continued
  }

  ~Executor() { give_up_fibers(); }

 private:
  struct Array {
    const void* key;
    std::byte* data;
    size_t bytes;
  };
  struct FiberSlot {
    std::unique_ptr<Fiber> fiber;
    bool busy = false;
  };

  Thread& current() { return threads_[running_]; }

  Fiber& fiber_of(const Thread& thread) {
    return *fibers_[static_cast<size_t>(thread.fiber)].fiber;
  }

  void run_block(const Index3& block) {
    threads_.assign(count_, Thread{});
    warps_.resize((count_ + kWarpSize - 1) / kWarpSize);
    for (unsigned w = 0; w < warps_.size(); ++w) {
      warps_[w].runnable = ~uint32_t{0} >> (kWarpSize - lanes_of(w));
      warps_[w].waiting = warps_[w].exited = 0;
      warps_[w].round = 0;
    }
    Index3 at;
    for (unsigned i = 0; i < count_; ++i) {
      const Index3& dim = shape_->block;
      threads_[i].place = {at, block, dim, shape_->grid};
      threads_[i].context = context(i);
      if (++at.x == dim.x) at.x = 0, ++at.y;
      if (at.y == dim.y) at.y = 0, ++at.z;
    }
    block_ = block;
    at_block_ = exited_ = 0;
    sum_ = 0;
    running_ = kMaxThreads;  // none
    clear_arena();
    if (shape_->dynamic_shared_bytes > 0) add_array(this, shape_->dynamic_shared_bytes, 128);
    // The host allocates them: what one emulated thread allocated would race with the next.
    while (sanitizers::kWatchesThreads && fibers_.size() < count_) add_fiber();
    sanitizers::release(&start_order_);
    begin(choose());
    Fiber::switch_to(host_, fiber_of(current()));
    if (!failure_.empty()) {
      give_up_fibers();
      throw KernelFault(fmt::format("{}: block {}, thread {}: {}", kernel_, show(block_),
                                    show(current().place.thread), std::exchange(failure_, {})));
    }
    if (exited_ < count_) {
      give_up_fibers();
      throw KernelFault(
          fmt::format("{}: deadlock in block {}: {}", kernel_, show(block_), census()));
    }
    sanitizers::acquire(&end_order_);
  }

  unsigned lanes_of(unsigned warp) const { return std::min(kWarpSize, count_ - warp * kWarpSize); }

  // The next thread to run, or kMaxThreads where all wait or are done.
  unsigned choose() {
    const auto warps = static_cast<unsigned>(warps_.size());
    const auto first = [this](unsigned warp, uint32_t bits) {
      const auto lane =
          static_cast<unsigned>(schedule_ == Schedule::Kind::reverse ? 31 - std::countl_zero(bits)
                                                                     : std::countr_zero(bits));
      return warp * kWarpSize + lane;
    };
    if (schedule_ == Schedule::Kind::random) {  // any thread, or the next after it that can run
      const auto start = static_cast<unsigned>(random_() % count_);
      const unsigned from = start / kWarpSize;
      if (const uint32_t bits = warps_[from].runnable & (~uint32_t{0} << start % kWarpSize))
        return first(from, bits);
      for (unsigned k = 1; k <= warps; ++k)
        if (const uint32_t bits = warps_[(from + k) % warps].runnable)
          return first((from + k) % warps, bits);
      return kMaxThreads;
    }
    // Stay in the warp that ran last as long as one of its lanes can go on.
    if (const unsigned warp = running_ / kWarpSize; warp < warps && warps_[warp].runnable)
      return first(warp, warps_[warp].runnable);
    for (unsigned k = 0; k < warps; ++k) {
      const unsigned warp = schedule_ == Schedule::Kind::reverse ? warps - 1 - k : k;
      if (warps_[warp].runnable) return first(warp, warps_[warp].runnable);
    }
    return kMaxThreads;
  }

  // Makes thread i the running one; whoever calls this then switches to its fiber.
  void begin(unsigned i) {
    running_ = i;
    Thread& thread = threads_[i];
    if (thread.state == State::unstarted && thread.fiber < 0) thread.fiber = free_fiber(i);
    thread.state = State::ready;
    place = &thread.place;
    sanitizers::switch_context(thread.context);
  }

  // The running thread waits or is done: completes the barriers that this completes, and says who
  // is next.
  unsigned settle() {
    const unsigned w = running_ / kWarpSize;
    Warp& warp = warps_[w];
    warp.runnable &= ~(uint32_t{1} << running_ % kWarpSize);
    if (current().state == State::done) {
      ++exited_;
      ++warp.exited;
    }
    const unsigned lanes = lanes_of(w);
    if (warp.waiting > 0 && warp.waiting == lanes) {
      warp.waiting = 0;
      ++warp.round;
      for (unsigned k = 0; k < lanes; ++k) make_ready(w * kWarpSize + k);
    }
    if (at_block_ > 0 && at_block_ + exited_ == count_) {
      at_block_ = 0;
      ++barrier_round_;
      last_sum_ = std::exchange(sum_, 0);
      for (unsigned i = 0; i < count_; ++i)
        if (threads_[i].state == State::at_block) make_ready(i);
    }
    return choose();
  }
  void make_ready(unsigned i) {
    threads_[i].state = State::ready;
    warps_[i / kWarpSize].runnable |= uint32_t{1} << i % kWarpSize;
  }

  // The next thread runs; returns when the one that calls this is chosen again.
  void suspend() {
    const unsigned self = running_, next = settle();
    if (next == self) return;
    if (next == kMaxThreads) {
      switch_to_host();  // a deadlock
    } else {
      begin(next);
      Fiber::switch_to(fiber_of(threads_[self]), fiber_of(current()));
    }
  }
  void switch_to_host() {
    sanitizers::switch_context(host_context_);
    Fiber::switch_to(fiber_of(current()), host_);
  }

  // A fiber runs one thread after another: most kernels need no more of them than wait at once.
  // Under the thread sanitizer each thread keeps its own, or one's stack would seem to race with
  // the other's.
  int free_fiber(unsigned thread) {
    if (sanitizers::kWatchesThreads) return take(thread);
    for (size_t i = next_fiber_; i < fibers_.size(); ++i)
      if (!fibers_[i].busy) return take(i);
    for (size_t i = 0; i < std::min(next_fiber_, fibers_.size()); ++i)
      if (!fibers_[i].busy) return take(i);
    add_fiber();
    return take(fibers_.size() - 1);
  }
  void add_fiber() {
    const size_t index = fibers_.size();
    fibers_.push_back({std::make_unique<Fiber>([this, index] {
                         while (true) run_thread(index);
                       }),
                       false});
  }
  // Runs a thread to its end on this fiber, then hands over. Returns where the next one is to begin
  // here, at once or when somebody switches back.
  void run_thread(size_t index) {
    sanitizers::acquire(&start_order_);
    (*body_)();
    sanitizers::release(&end_order_);
    current().state = State::done;
    fibers_[index].busy = false;
    const unsigned next = settle();
    if (next == kMaxThreads) {
      switch_to_host();
      return;
    }
    if (!sanitizers::kWatchesThreads && threads_[next].state == State::unstarted)
      threads_[next].fiber = take(index);
    begin(next);
    if (static_cast<size_t>(current().fiber) != index)
      Fiber::switch_to(*fibers_[index].fiber, fiber_of(current()));
  }
  int take(size_t i) {
    fibers_[i].busy = true;
    next_fiber_ = i;
    return static_cast<int>(i);
  }

  // Threads that will never go on: their stacks are dropped.
  void give_up_fibers() {
    // Whatever they did lies before what the host does now.
    for (char& order : barrier_order_) sanitizers::acquire(&order);
    for (Warp& warp : warps_)
      for (WarpValues& slots : warp.slots) sanitizers::acquire(&slots);
    sanitizers::acquire(&end_order_);
    fibers_.clear();
    next_fiber_ = 0;
    for (void* context : contexts_) sanitizers::destroy_context(context);
    contexts_.clear();
  }

  void* context(unsigned i) {
    while (contexts_.size() <= i) contexts_.push_back(sanitizers::create_context());
    return contexts_[i];
  }

  // ---- shared memory
  void clear_arena() {
    sanitizers::unpoison(arena_.data(), arena_.size());
    std::memset(arena_.data(), kUninitialised, std::min(arena_.size(), arena_used_ + kGapBytes));
    sanitizers::poison(arena_.data(), arena_.size());
    arrays_.clear();
    arena_used_ = shared_bytes_ = 0;
  }
  void* add_array(const void* key, size_t bytes, size_t alignment) {
    shared_bytes_ = (shared_bytes_ + alignment - 1) / alignment * alignment + bytes;
    if (shared_bytes_ > kMaxSharedBytes) {
      throw_or_fail(fmt::format("{} bytes of shared memory, the device has {} a block",
                                shared_bytes_, kMaxSharedBytes));
    }
    const auto base = reinterpret_cast<uintptr_t>(arena_.data());
    const uintptr_t at = (base + arena_used_ + kGapBytes + alignment - 1) / alignment * alignment;
    auto* const data = reinterpret_cast<std::byte*>(at);
    arena_used_ = at - base + bytes;
    sanitizers::unpoison(data, bytes);
    arrays_.push_back({key, data, bytes});
    return data;
  }
  void throw_or_fail(std::string&& what) {
    if (place) fail(std::move(what));
    throw KernelFault(fmt::format("{}: {}", kernel_, what));
  }

  // "32 threads at __syncthreads (norm.cu:41), 0 exited, 32 at a warp barrier (norm.cu:50)"
  std::string census() const {
    std::map<std::string, unsigned> block, warp;
    for (const Thread& t : threads_) {
      if (t.state == State::at_block) ++block[show(t.where)];
      if (t.state == State::at_warp) ++warp[show(t.where)];
    }
    const auto list = [](const std::map<std::string, unsigned>& counts, const char* what) {
      std::string text;
      for (const auto& [where, n] : counts)
        text += fmt::format("{} threads at {} ({}), ", n, what, where);
      return text;
    };
    return list(block, "__syncthreads") + list(warp, "a warp function") +
           fmt::format("{} exited", exited_);
  }

  const char* kernel_ = "";
  const LaunchShape* shape_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  Schedule::Kind schedule_ = Schedule::Kind::greedy;
  unsigned count_ = 0, running_ = 0, at_block_ = 0, exited_ = 0;
  int sum_ = 0, last_sum_ = 0;
  uint64_t launches_ = 0;
  Index3 block_;
  Location first_barrier_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::string failure_;
  SplitMix random_{0};

  Fiber host_;
  std::vector<FiberSlot> fibers_;
  size_t next_fiber_ = 0;

  std::vector<std::byte> arena_ =
      std::vector<std::byte>(kMaxSharedBytes + (size_t{64} << 10), std::byte{kUninitialised});
  std::vector<Array> arrays_;
  size_t arena_used_ = 0, shared_bytes_ = 0;

  // What the thread sanitizer orders by. Two barriers take turns: a thread that is on its way to
  // the next one must not seem ordered before those that have not left this one.
  char start_order_ = 0, end_order_ = 0, barrier_order_[2] = {};
  uint64_t barrier_round_ = 0;
  void* host_context_ = nullptr;
  std::vector<void*> contexts_;
};

Executor& executor() {
  thread_local Executor instance;
  return instance;
}

// Names of kernels, and what guards them.
struct Registry {
  std::mutex mutex;
  std::set<std::string> known, were_run;
};
Registry& registry() {
  static auto* instance = new Registry;
  return *instance;
}

Schedule& current_schedule() {
  static Schedule value = [] {
    const char* text = std::getenv("FACET_EMU_SCHEDULE");
    return text ? Schedule::parse(text) : Schedule{};
  }();
  return value;
}

}  // namespace

Schedule Schedule::parse(const std::string& text) {
  if (text == "greedy") return {Kind::greedy, 0};
  if (text == "reverse") return {Kind::reverse, 0};
  if (text.starts_with("random:"))
    if (const auto seed = to_number<uint64_t>(text.substr(7))) return {Kind::random, *seed};
  throw UsageError("FACET_EMU_SCHEDULE: expected greedy, reverse or random:SEED, got '{}'", text);
}

std::string Schedule::name() const {
  switch (kind) {
    case Kind::greedy: return "greedy";
    case Kind::reverse: return "reverse";
    case Kind::random: return fmt::format("random:{}", seed);
  }
  return "?";
}

Schedule schedule() {
  return current_schedule();
}
void set_schedule(const Schedule& schedule) {
  current_schedule() = schedule;
}

void run_grid(const char* kernel, const LaunchShape& shape, const std::function<void()>& body) {
  {
    const std::lock_guard lock(registry().mutex);
    registry().were_run.insert(kernel);
  }
  executor().run(kernel, shape, body);
}

bool register_kernel(const char* name) {
  const std::lock_guard lock(registry().mutex);
  return registry().known.insert(name).second;
}
std::vector<std::string> known_kernels() {
  const std::lock_guard lock(registry().mutex);
  return {registry().known.begin(), registry().known.end()};
}
std::vector<std::string> kernels_run() {
  const std::lock_guard lock(registry().mutex);
  return {registry().were_run.begin(), registry().were_run.end()};
}

void sync_threads(Location at) {
  executor().wait_for_block(at, 0);
}
int sync_threads_sum(int value, Location at) {
  executor().wait_for_block(at, value);
  return executor().block_sum();
}
void sync_warp(uint32_t mask, Location at) {
  executor().wait_for_warp(mask, nullptr, 0, at);
}
const WarpValues& exchange(uint32_t mask, const void* value, size_t bytes, Location at) {
  return executor().wait_for_warp(mask, value, bytes, at);
}
unsigned lane() {
  return executor().lane();
}
void* shared_array(const void* key, size_t bytes, size_t alignment) {
  return executor().shared_array(key, bytes, alignment);
}
void* dynamic_shared_memory() {
  return executor().dynamic_shared();
}
AsyncCopies& async_copies() {
  return executor().async_copies();
}
void device_fail(const char* what, Location at) {
  std::string text = fmt::format("{}: {}", show(at), what);
  executor().fail(std::move(text));
}

}  // namespace facet::emu
