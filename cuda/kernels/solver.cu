// Average-linkage clustering on the device, and symmetric eigenvalues by cuSOLVER.
#include "cuda/kernels/sort.cuh"
#include "cuda/kernels/tensors.cuh"
#include "cuda/vendor/solver.h"

namespace facet {

using namespace cuda;

namespace {

constexpr int kChainThreads = 256;

template <typename T>
struct Candidate {
  T value;
  int64_t index;
};
struct Better {  // the larger similarity; of equals the first; a NaN wins, so that it is seen
  template <typename T>
  __device__ Candidate<T> operator()(Candidate<T> a, Candidate<T> b) const {
    if (a.value != a.value) return a;
    if (b.value != b.value) return b;
    if (a.value != b.value) return a.value > b.value ? a : b;
    return a.index <= b.index ? a : b;
  }
};

struct Descending {
  template <typename T>
  __device__ bool operator()(T a, T b) const {
    return a > b;
  }
};

// One matrix to cluster: similarity (n, n), merges (n - 1) and scratch. size (n) starts as 1, 0
// marks the dead; chain (n). bad: set to 1 where a similarity is no finite number.
template <typename T>
struct Linkage {
  T *similarity, *merges, *size;
  int64_t* chain;
  int64_t n;
  int32_t* bad;
};

// The union of low and high takes high's place: s(a + b, c) = (|a| s(a, c) + |b| s(b, c)) /
// (|a| + |b|), for the c = first, first + stride, ... that are alive.
template <typename T>
__device__ void merge_rows(const Linkage<T>& job, int64_t low, int64_t high, int64_t first,
                           int64_t stride) {
  const T total = job.size[low] + job.size[high];
  const T share_low = job.size[low] / total, share_high = job.size[high] / total;
  T *const row_low = job.similarity + low * job.n, *const row_high = job.similarity + high * job.n;
  for (int64_t c = first; c < job.n; c += stride) {
    if (!(job.size[c] > T(0)) || c == low || c == high) continue;
    const T value = share_low * row_low[c] + share_high * row_high[c];
    row_high[c] = value;
    job.similarity[c * job.n + high] = value;
  }
}

// Agglomerative clustering by the nearest-neighbour chain (Murtagh 1983), as tensor/cpu/solver.cpp
// does it: a block a matrix walks the chain, its threads scan and merge rows; then it sorts the
// merges. Grid: matrices; block: 256.
template <typename T>
__global__ void chain_kernel(const Linkage<T>* jobs) {
  SHARED_ARRAY(Candidate<T>, scratch, 32);
  const Linkage<T> job = jobs[blockIdx.x];
  const int64_t n = job.n;
  const T lowest = -std::numeric_limits<T>::infinity();
  const Candidate<T> nothing{lowest, std::numeric_limits<int64_t>::max()};
  int64_t length = 0, found = 0;  // the same in every thread
  while (found < n - 1) {
    if (length == 0) {
      Candidate<T> first = nothing;
      for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        if (job.size[i] > T(0)) first = Better{}(first, Candidate<T>{T(0), i});
      first = block_reduce(first, Better{}, nothing, scratch);
      if (threadIdx.x == 0) job.chain[0] = first.index;
      length = 1;
    }
    __syncthreads();
    const int64_t a = job.chain[length - 1], before = length > 1 ? job.chain[length - 2] : -1;
    const T* const row = job.similarity + a * n;
    Candidate<T> best = nothing;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
      if (i != a && job.size[i] > T(0)) best = Better{}(best, Candidate<T>{row[i], i});
    best = block_reduce(best, Better{}, nothing, scratch);
    if (!(best.value - best.value == T(0))) {
      if (threadIdx.x == 0) *job.bad = 1;
      return;  // all threads do
    }
    // Of equals `before`, or the chain could run in a circle.
    const bool mutual = before >= 0 && row[before] == best.value;
    if (!mutual) {
      if (threadIdx.x == 0) job.chain[length] = best.index;
      ++length;
      continue;
    }
    if (threadIdx.x == 0) job.merges[found] = best.value;
    ++found;
    length -= 2;
    const int64_t low = a < before ? a : before, high = a < before ? before : a;
    __syncthreads();
    merge_rows(job, low, high, threadIdx.x, blockDim.x);
    __syncthreads();
    if (threadIdx.x == 0) {
      job.size[high] += job.size[low];
      job.size[low] = T(0);
    }
    __syncthreads();
  }
  block_sort(job.merges, n - 1, Descending{});
}

// The naive twin: a thread a matrix merges the most similar pair until one cluster is left.
template <typename T>
struct GreedyLinkage {
  const Linkage<T>* jobs;
  __device__ void operator()(int64_t matrix) const {
    const Linkage<T> job = jobs[matrix];
    const int64_t n = job.n;
    for (int64_t found = 0; found < n - 1; ++found) {
      Candidate<T> best{-std::numeric_limits<T>::infinity(), std::numeric_limits<int64_t>::max()};
      for (int64_t low = 0; low < n; ++low)
        for (int64_t high = low + 1; high < n; ++high)
          if (job.size[low] > T(0) && job.size[high] > T(0))
            best = Better{}(best, Candidate<T>{job.similarity[low * n + high], low * n + high});
      if (!(best.value - best.value == T(0))) {
        *job.bad = 1;
        return;
      }
      const int64_t low = best.index / n, high = best.index % n;
      merge_rows(job, low, high, 0, 1);
      job.size[high] += job.size[low];
      job.size[low] = T(0);
      // In order but for the last digit.
      int64_t at = found;
      for (; at > 0 && job.merges[at - 1] < best.value; --at) job.merges[at] = job.merges[at - 1];
      job.merges[at] = best.value;
    }
  }
};

template <typename F>
void dispatch_solver(const Tensor& x, const char* op, F&& f) {
  if (x.dtype() == DType::f32) return f(float{});
  FACET_CHECK(x.dtype() == DType::f64, op, "expected f32 or f64, got {}", name(x.dtype()));
  f(double{});
}

}  // namespace

void CudaBackend::eigvalsh(const Tensor& matrix, Tensor& values) {
  Tensor work = matrix.clone();  // cuSOLVER overwrites it
  vendor::symmetric_eigenvalues(work, values);
}

void CudaBackend::average_linkage(std::span<Tensor> similarities, std::span<Tensor> merges) {
  const auto count = static_cast<int64_t>(similarities.size());
  const Tensor& first = similarities[0];
  int64_t total = 0;
  for (const Tensor& matrix : similarities) total += matrix.dim(0);
  Tensor size = Tensor::full({total}, 1.0, first.dtype(), first.device());
  Tensor chain = Tensor::empty({total}, DType::i64, first.device());
  Tensor bad = Tensor::zeros({count}, DType::i32, first.device());
  dispatch_solver(first, "average_linkage", [&](auto tag) {
    using T = decltype(tag);
    std::vector<Linkage<T>> jobs;
    int64_t at = 0;
    for (size_t i = 0; i < similarities.size(); ++i) {
      const int64_t n = similarities[i].dim(0);
      jobs.push_back({similarities[i].data<T>(), merges[i].data<T>(), size.data<T>() + at,
                      chain.data<int64_t>() + at, n, bad.data<int32_t>() + i});
      at += n;
    }
    const Tensor list = upload(jobs, first.device());
    if (kernel_choice() == KernelChoice::naive)
      map(size, count, GreedyLinkage<T>{uploaded<Linkage<T>>(list)});
    else
      launch_for<chain_kernel<T>>(size, static_cast<unsigned>(count), kChainThreads, 0,
                                  uploaded<Linkage<T>>(list));
  });
  for (const int32_t is_bad : bad.to_vector<int32_t>())
    FACET_CHECK(!is_bad, "average_linkage",
                "expected finite similarities, got a NaN or an infinity");
}

}  // namespace facet
