#include "tensor/comm.h"

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "tensor/ops.h"

namespace facet {
namespace {

constexpr std::chrono::milliseconds kWatchPeriod{50};

class SingleRank final : public Comm {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(Tensor&) override {}
  void all_reduce(std::span<Tensor>) override {}
  Tensor all_gather(const Tensor& x) override { return x; }
  void broadcast(Tensor&, int) override {}
  void barrier() override {}
};

// The meeting place of ranks that are threads.
class Meeting {
 public:
  explicit Meeting(int size) : given_(static_cast<size_t>(size)) {}

  // Waits until every rank has come here.
  void wait() {
    std::unique_lock lock(mutex_);
    if (stopped_) throw RankStopped();
    const uint64_t turn = turn_;
    if (++arrived_ == given_.size()) {
      arrived_ = 0;
      ++turn_;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return turn_ != turn || stopped_; });
    if (turn_ == turn) throw RankStopped();
  }
  void stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

  // Everybody's tensors, from when all have given theirs until all have left `use`.
  template <typename Use>
  void exchange(int rank, const Tensor& mine, const Use& use) {
    mine.backend().synchronize();  // the others read from streams of their own
    given_[static_cast<size_t>(rank)] = mine;
    wait();
    use(given_);
    wait();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  TensorList given_;
  size_t arrived_ = 0;
  uint64_t turn_ = 0;
  bool stopped_ = false;
};

class ThreadRank final : public Comm {
 public:
  ThreadRank(Meeting& meeting, int rank, int size) : meeting_(meeting), rank_(rank), size_(size) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  using Comm::all_reduce;
  void all_reduce(Tensor& x) override {
    Tensor sum;
    meeting_.exchange(rank_, x, [&](const TensorList& given) {
      sum = given[0].to(x.device()).clone();
      for (size_t r = 1; r < given.size(); ++r) ops::add_(sum, given[r].to(x.device()));
      sum.backend().synchronize();
    });
    x.copy_(sum);
  }
  Tensor all_gather(const Tensor& x) override {
    Tensor all;
    meeting_.exchange(rank_, x, [&](const TensorList& given) {
      TensorList here;
      for (const Tensor& t : given) here.push_back(t.to(x.device()));
      all = ops::concat(here);
      all.backend().synchronize();
    });
    return all;
  }
  void broadcast(Tensor& x, int root) override {
    Tensor copy;
    meeting_.exchange(rank_, x, [&](const TensorList& given) {
      copy = given[static_cast<size_t>(root)].to(x.device()).clone();
      copy.backend().synchronize();
    });
    x.copy_(copy);
  }
  void barrier() override { meeting_.wait(); }

 private:
  Meeting& meeting_;
  int rank_, size_;
};

}  // namespace

void Comm::all_reduce(std::span<Tensor> tensors) {
  for (Tensor& tensor : tensors) all_reduce(tensor);
}

Comm& single_rank() {
  static SingleRank comm;
  return comm;
}

void run_rank_threads(int size, const std::function<void(int rank)>& work,
                      const std::function<void()>& stop, const std::function<void()>& watch) {
  std::mutex mutex;
  std::condition_variable ended;
  int running = size;
  std::exception_ptr first;
  const auto guarded = [&](const auto& f) {
    try {
      f();
    } catch (...) {
      {
        const std::lock_guard lock(mutex);
        if (first) return;
        first = std::current_exception();
      }
      stop();
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      guarded([&] { work(rank); });
      const std::lock_guard lock(mutex);
      --running;
      ended.notify_all();
    });
  std::unique_lock lock(mutex);
  while (!ended.wait_for(lock, kWatchPeriod, [&] { return running == 0; })) {
    if (!watch || first) continue;
    lock.unlock();
    guarded(watch);
    lock.lock();
  }
  lock.unlock();
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

void run_ranks(int size, const std::function<void(Comm& comm)>& body) {
  FACET_CHECK(size >= 1, "run_ranks", "expected at least one rank, got {}", size);
  Meeting meeting(size);
  const auto work = [&](int rank) {
    ThreadRank comm(meeting, rank, size);
    body(comm);
  };
  run_rank_threads(size, work, [&] { meeting.stop(); });
}

}  // namespace facet
