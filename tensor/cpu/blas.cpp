#include "tensor/cpu/blas.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "tensor/check.h"
#include "tensor/parallel.h"

namespace facet::blas {
namespace {

// Values of the CBLAS enumerations.
constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112, kUpper = 121;

template <typename T>
struct Functions {
  void (*gemm)(int, int, int, int, int, int, T, const T*, int, const T*, int, T, T*, int);
  void (*syrk)(int, int, int, int, int, T, const T*, int, T, T*, int);
  // Fortran: the two hidden lengths of the character arguments come last.
  void (*syevd)(const char*, const char*, const int*, T*, const int*, T*, T*, const int*, int*,
                const int*, int*, size_t, size_t);
};

// OpenBLAS 0.3.21 takes an Intel processor newer than itself for a Prescott (SSE3) and runs at a
// fifth of the speed, so the kernels are chosen by instruction set unless the user chose.
void choose_core_type() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512)
    setenv("OPENBLAS_CORETYPE", "SKYLAKEX", /*overwrite=*/0);
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    setenv("OPENBLAS_CORETYPE", "HASWELL", /*overwrite=*/0);
#endif
}

class Library {
 public:
  Library() {
    choose_core_type();
    // The OpenMP variant first: it shares its threads with oneDNN and parallel_for.
    const std::vector<std::string> names = {
#if defined(__x86_64__)
      "/usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblas.so.0",
#elif defined(__aarch64__)
      "/usr/lib/aarch64-linux-gnu/openblas-openmp/libopenblas.so.0",
#endif
      "libopenblas.so.0",
      "libopenblas.so"
    };
    for (const auto& name : names)
      if ((handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL))) break;
    if (!handle_)
      throw Error("OpenBLAS not found ({}); install it: apt install libopenblas0-openmp",
                  dlerror());
    load(set_threads, "openblas_set_num_threads");
    load_all(f32_, 's');
    load_all(f64_, 'd');
  }

  void (*set_threads)(int);
  template <typename T>
  const Functions<T>& of() const {
    if constexpr (std::is_same_v<T, float>)
      return f32_;
    else
      return f64_;
  }

 private:
  template <typename T>
  void load_all(Functions<T>& functions, char type) {
    load(functions.gemm, fmt::format("cblas_{}gemm", type));
    load(functions.syrk, fmt::format("cblas_{}syrk", type));
    load(functions.syevd, fmt::format("{}syevd_", type));
  }
  template <typename F>
  void load(F& function, const std::string& name) {
    function = reinterpret_cast<F>(dlsym(handle_, name.c_str()));
    if (!function)
      throw Error("OpenBLAS has no {}; install a full one: apt install libopenblas0-openmp", name);
  }

  void* handle_ = nullptr;
  Functions<float> f32_;
  Functions<double> f64_;
};

// The library, set to num_threads(). Setting them is not free, so only changes are passed on.
// Inside a parallel region OpenBLAS takes one thread by itself.
const Library& library() {
  static const Library instance;
  static std::atomic<int> threads{0};
  const int wanted = num_threads();
  if (threads.exchange(wanted, std::memory_order_relaxed) != wanted) instance.set_threads(wanted);
  return instance;
}

int to_int(int64_t size) {
  FACET_CHECK(size >= 0 && size <= std::numeric_limits<int>::max(), "blas",
              "size {} does not fit in 32 bits", size);
  return static_cast<int>(size);
}

}  // namespace

template <typename T>
void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a,
          int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  library().of<T>().gemm(kRowMajor, trans_a ? kTrans : kNoTrans, trans_b ? kTrans : kNoTrans,
                         to_int(m), to_int(n), to_int(k), alpha, a, to_int(lda), b, to_int(ldb),
                         beta, c, to_int(ldc));
}

template <typename T>
void syrk(bool trans, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, T beta, T* c,
          int64_t ldc) {
  library().of<T>().syrk(kRowMajor, kUpper, trans ? kTrans : kNoTrans, to_int(n), to_int(k), alpha,
                         a, to_int(lda), beta, c, to_int(ldc));
}

template <typename T>
void symmetric_eigenvalues(int64_t size, T* matrix, T* values) {
  if (size == 0) return;
  const auto f = library().of<T>().syevd;
  const int n = to_int(size);
  // The row-major upper triangle is the lower one for Fortran.
  const char jobz = 'N', uplo = 'L';
  int info = 0, integer_count = 0, query = -1;
  T work_count = 0;
  f(&jobz, &uplo, &n, matrix, &n, values, &work_count, &query, &integer_count, &query, &info, 1, 1);
  // The count comes back as a floating number: leave room for its rounding.
  std::vector<T> work(static_cast<size_t>(static_cast<double>(work_count) * 1.001) + 64);
  std::vector<int> integers(static_cast<size_t>(integer_count) + 1);
  const int work_size = to_int(static_cast<int64_t>(work.size()));
  const int integers_size = to_int(static_cast<int64_t>(integers.size()));
  f(&jobz, &uplo, &n, matrix, &n, values, work.data(), &work_size, integers.data(), &integers_size,
    &info, 1, 1);
  FACET_CHECK(info == 0, "eigvalsh", "no convergence of a ({}, {}) matrix (LAPACK info {})", n, n,
              info);
}

#define FACET_INSTANTIATE(T)                                                                \
  template void gemm(bool, bool, int64_t, int64_t, int64_t, T, const T*, int64_t, const T*, \
                     int64_t, T, T*, int64_t);                                              \
  template void syrk(bool, int64_t, int64_t, T, const T*, int64_t, T, T*, int64_t);         \
  template void symmetric_eigenvalues(int64_t, T*, T*);
FACET_INSTANTIATE(float)
FACET_INSTANTIATE(double)
#undef FACET_INSTANTIATE

}  // namespace facet::blas
