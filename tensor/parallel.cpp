#include "tensor/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#ifdef FACET_OPENMP
#include <omp.h>
#endif

namespace facet {
namespace {

int available_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

std::atomic<int>& thread_count() {
  static std::atomic<int> count{available_cores()};
  return count;
}

thread_local bool inside_parallel = false;

// The first exception of any part, rethrown by the caller's thread.
class FirstException {
 public:
  template <typename F>
  void guard(F&& f) {
    try {
      f();
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!first_) first_ = std::current_exception();
    }
  }
  void rethrow() {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr first_;
};

}  // namespace

int num_threads() {
  const int count = thread_count();
#ifdef FACET_OPENMP
  // Each thread has an OpenMP setting of its own, which the libraries go by.
  static thread_local int set_here = 0;
  if (set_here != count) omp_set_num_threads(set_here = count);
#endif
  return count;
}

void set_num_threads(int n) {
  thread_count() = std::max(1, n);
  num_threads();  // here at once
}

int parallel_parts(int64_t n, int64_t grain) {
  if (n <= 0 || inside_parallel) return 1;
  return static_cast<int>(std::clamp<int64_t>(n / std::max<int64_t>(grain, 1), 1, num_threads()));
}

void parallel_for_parts(int64_t n, int64_t grain,
                        const std::function<void(int, int64_t, int64_t)>& body) {
  if (n <= 0) return;
  const int parts = parallel_parts(n, grain);
  if (parts == 1) return body(0, 0, n);
  const auto edge = [&](int p) { return n * p / parts; };
  FirstException error;
  const auto run = [&](int p) {
    inside_parallel = true;
    error.guard([&] { body(p, edge(p), edge(p + 1)); });
    inside_parallel = false;
  };
#ifdef FACET_OPENMP
#pragma omp parallel num_threads(parts)
  for (int p = omp_get_thread_num(); p < parts; p += omp_get_num_threads()) run(p);
#else
  std::vector<std::thread> threads;
  for (int p = 1; p < parts; ++p) threads.emplace_back(run, p);
  run(0);
  for (auto& thread : threads) thread.join();
#endif
  error.rethrow();
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  parallel_for_parts(n, grain, [&](int, int64_t begin, int64_t end) { body(begin, end); });
}

}  // namespace facet
