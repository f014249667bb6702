#include "cuda/emu/block.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "cuda/emu/error.h"
#include "cuda/emu/fiber.h"
#include "cuda/emu/sanitizers.h"
#include "tensor/check.h"

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
               std::strcmp(first_barrier_.file_name(), at.file_name()) != 0) {
      {
        std::string text =
            fmt::format("divergent barrier: thread {} of the block waits at {}, others at {}",
                        running_, show(at), show(first_barrier_));
        fail(std::move(text));
      }
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
      std::string text = "dynamic_shared: the launch gave no dynamic shared memory";
      fail(std::move(text));
    }
    return arrays_.front().data;
  }

  // `what` is moved from: the caller's stack is never unwound, so nothing on it may own memory.
  [[noreturn]] void fail(std::string&& what) {
    failure_ = std::move(what);
    sanitizers::release(&end_order_);
    Fiber::switch_to(*fibers_[static_cast<size_t>(current().fiber)].fiber, host_);
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

  void run_block(const Index3& block) {
    threads_.assign(count_, Thread{});
    warps_.assign((count_ + kWarpSize - 1) / kWarpSize, Warp{});
    for (unsigned i = 0; i < count_; ++i) {
      const Index3& dim = shape_->block;
      threads_[i].place = {
          {i % dim.x, i / dim.x % dim.y, i / (dim.x * dim.y)}, block, dim, shape_->grid};
      threads_[i].context = context(i);
    }
    block_ = block;
    at_block_ = exited_ = 0;
    sum_ = 0;
    running_ = kMaxThreads;  // none
    clear_arena();
    if (shape_->dynamic_shared_bytes > 0) add_array(this, shape_->dynamic_shared_bytes, 128);
    sanitizers::release(&start_order_);
    while (exited_ < count_) {
      const int next = choose();
      if (next < 0) {
        give_up_fibers();
        throw KernelFault(
            fmt::format("{}: deadlock in block {}: {}", kernel_, show(block_), census()));
      }
      resume(static_cast<unsigned>(next));
      if (!failure_.empty()) {
        give_up_fibers();
        throw KernelFault(fmt::format("{}: block {}, thread {}: {}", kernel_, show(block_),
                                      show(threads_[running_].place.thread),
                                      std::exchange(failure_, {})));
      }
    }
    sanitizers::acquire(&end_order_);
  }

  bool runnable(unsigned i) const {
    return threads_[i].state == State::unstarted || threads_[i].state == State::ready;
  }

  // The next thread to run, or -1 where all wait.
  int choose() {
    const Schedule::Kind kind = schedule().kind;
    if (kind == Schedule::Kind::random) {
      const auto start = static_cast<unsigned>(random_() % count_);
      for (unsigned i = 0; i < count_; ++i)
        if (runnable((start + i) % count_)) return static_cast<int>((start + i) % count_);
      return -1;
    }
    // Greedy: stay in the warp that ran last as long as one of its lanes can go on.
    const bool reverse = kind == Schedule::Kind::reverse;
    const auto in_warp = [&](unsigned warp) {
      const unsigned begin = warp * kWarpSize, end = std::min(begin + kWarpSize, count_);
      for (unsigned k = 0; k < end - begin; ++k) {
        const unsigned i = reverse ? end - 1 - k : begin + k;
        if (runnable(i)) return static_cast<int>(i);
      }
      return -1;
    };
    const auto warps = static_cast<unsigned>(warps_.size());
    if (const unsigned warp = running_ / kWarpSize; warp < warps)
      if (const int i = in_warp(warp); i >= 0) return i;
    for (unsigned k = 0; k < warps; ++k)
      if (const int i = in_warp(reverse ? warps - 1 - k : k); i >= 0) return i;
    return -1;
  }

  // Runs thread i until it waits or exits, then completes the barriers that this completes.
  void resume(unsigned i) {
    running_ = i;
    Thread& thread = threads_[i];
    if (thread.state == State::unstarted) thread.fiber = free_fiber(i);
    thread.state = State::ready;
    place = &thread.place;
    sanitizers::switch_context(thread.context);
    Fiber::switch_to(host_, *fibers_[static_cast<size_t>(thread.fiber)].fiber);
    sanitizers::switch_context(host_context_);
    if (!failure_.empty()) return;
    Warp& warp = warps_[i / kWarpSize];
    if (thread.state == State::done) {
      ++exited_;
      ++warp.exited;
      fibers_[static_cast<size_t>(thread.fiber)].busy = false;
    }
    const unsigned lanes = std::min(kWarpSize, count_ - i / kWarpSize * kWarpSize);
    if (warp.waiting > 0 && warp.waiting == lanes) {
      warp.waiting = 0;
      ++warp.round;
      for (unsigned k = i / kWarpSize * kWarpSize; k < i / kWarpSize * kWarpSize + lanes; ++k)
        threads_[k].state = State::ready;
    }
    if (at_block_ > 0 && at_block_ + exited_ == count_) {
      at_block_ = 0;
      ++barrier_round_;
      last_sum_ = std::exchange(sum_, 0);
      for (Thread& t : threads_)
        if (t.state == State::at_block) t.state = State::ready;
    }
  }

  // Back to the scheduler; returns when the thread is chosen again.
  void suspend() { Fiber::switch_to(*fibers_[static_cast<size_t>(current().fiber)].fiber, host_); }

  // A fiber runs one thread after another: most kernels need no more of them than wait at once.
  // Under the thread sanitizer each thread keeps its own, or one's stack would seem to race with
  // the other's.
  int free_fiber(unsigned thread) {
    if (sanitizers::kWatchesThreads) {
      while (fibers_.size() <= thread) add_fiber();
      return take(thread);
    }
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
                         while (true) {
                           sanitizers::acquire(&start_order_);
                           (*body_)();
                           sanitizers::release(&end_order_);
                           current().state = State::done;
                           Fiber::switch_to(*fibers_[index].fiber, host_);
                         }
                       }),
                       false});
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
      std::string text = fmt::format("{} bytes of shared memory, the device has {} a block",
                                     shared_bytes_, kMaxSharedBytes);
      throw_or_fail(std::move(text));
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

std::mutex& registry_mutex() {
  static auto* mutex = new std::mutex;
  return *mutex;
}
std::set<std::string>& known() {
  static auto* names = new std::set<std::string>;
  return *names;
}
std::set<std::string>& were_run() {
  static auto* names = new std::set<std::string>;
  return *names;
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
  if (text.starts_with("random:")) {
    uint64_t seed = 0;
    const char* const end = text.data() + text.size();
    if (std::from_chars(text.data() + 7, end, seed).ptr == end && text.size() > 7)
      return {Kind::random, seed};
  }
  throw UsageError(
      fmt::format("FACET_EMU_SCHEDULE: expected greedy, reverse or random:SEED, got '{}'", text));
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
    const std::lock_guard lock(registry_mutex());
    were_run().insert(kernel);
  }
  executor().run(kernel, shape, body);
}

bool register_kernel(const char* name) {
  const std::lock_guard lock(registry_mutex());
  return known().insert(name).second;
}
std::vector<std::string> known_kernels() {
  const std::lock_guard lock(registry_mutex());
  return {known().begin(), known().end()};
}
std::vector<std::string> kernels_run() {
  const std::lock_guard lock(registry_mutex());
  return {were_run().begin(), were_run().end()};
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
