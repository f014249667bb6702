// Average-linkage clustering on the device, and symmetric eigenvalues by cuSOLVER.
#include "cuda/kernels/common.cuh"
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

// Agglomerative clustering by the nearest-neighbour chain (Murtagh 1983), as tensor/cpu/solver.cpp
// does it: one block walks the chain, its threads scan and merge rows. merges (n - 1) in the order
// in which they are found. size (n) starts as 1, 0 marks the dead; chain (n). bad: set to 1 where a
// similarity is no finite number. Grid 1, block 256.
template <typename T>
__global__ void chain_kernel(T* similarity, int64_t n, T* merges, T* size, int64_t* chain,
                             int32_t* bad) {
  SHARED_ARRAY(Candidate<T>, scratch, 32);
  const T lowest = -std::numeric_limits<T>::infinity();
  const Candidate<T> nothing{lowest, std::numeric_limits<int64_t>::max()};
  int64_t length = 0, found = 0;  // the same in every thread
  while (found < n - 1) {
    if (length == 0) {
      Candidate<T> first = nothing;
      for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        if (size[i] > T(0)) first = Better{}(first, Candidate<T>{T(0), i});
      first = block_reduce(first, Better{}, nothing, scratch);
      if (threadIdx.x == 0) chain[0] = first.index;
      length = 1;
    }
    __syncthreads();
    const int64_t a = chain[length - 1], before = length > 1 ? chain[length - 2] : -1;
    const T* const row = similarity + a * n;
    Candidate<T> best = nothing;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
      if (i != a && size[i] > T(0)) best = Better{}(best, Candidate<T>{row[i], i});
    best = block_reduce(best, Better{}, nothing, scratch);
    if (!(best.value - best.value == T(0))) {
      if (threadIdx.x == 0) *bad = 1;
      return;  // all threads do
    }
    // Of equals `before`, or the chain could run in a circle.
    const bool mutual = before >= 0 && row[before] == best.value;
    if (!mutual) {
      if (threadIdx.x == 0) chain[length] = best.index;
      ++length;
      continue;
    }
    if (threadIdx.x == 0) merges[found] = best.value;
    ++found;
    length -= 2;
    // The union takes the larger place: s(a + b, c) = (|a| s(a, c) + |b| s(b, c)) / (|a| + |b|).
    const int64_t low = a < before ? a : before, high = a < before ? before : a;
    const T of_low = size[low], of_high = size[high];
    const T share_low = of_low / (of_low + of_high), share_high = of_high / (of_low + of_high);
    __syncthreads();
    for (int64_t c = threadIdx.x; c < n; c += blockDim.x) {
      if (!(size[c] > T(0)) || c == low || c == high) continue;
      const T value = share_low * similarity[low * n + c] + share_high * similarity[high * n + c];
      similarity[high * n + c] = value;
      similarity[c * n + high] = value;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      size[high] = of_low + of_high;
      size[low] = T(0);
    }
    __syncthreads();
  }
}

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

void CudaBackend::average_linkage(Tensor& similarity, Tensor& merges) {
  const int64_t n = similarity.dim(0);
  if (n < 2) return;
  const Device device = similarity.device();
  Tensor size = Tensor::full({n}, 1.0, similarity.dtype(), device);
  Tensor chain = Tensor::empty({n}, DType::i64, device);
  Tensor bad = Tensor::zeros({1}, DType::i32, device);
  dispatch_solver(similarity, "average_linkage", [&](auto tag) {
    using T = decltype(tag);
    launch_for<chain_kernel<T>>(similarity, 1u, kChainThreads, 0, similarity.data<T>(), n,
                                merges.data<T>(), size.data<T>(), chain.data<int64_t>(),
                                bad.data<int32_t>());
    FACET_CHECK(bad.item() == 0.0, "average_linkage",
                "expected finite similarities, got a NaN or an infinity");
    // n - 1 numbers: sorted on the host.
    std::vector<T> host = merges.to_vector<T>();
    std::sort(host.begin(), host.end(), std::greater<T>());
    merges.copy_(Tensor::from(host, {n - 1}));
  });
}

}  // namespace facet
