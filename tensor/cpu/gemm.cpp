// Matrix products by OpenBLAS. bf16 goes through f32: the sums are exact to f32 as they must be,
// and without AMX the processor multiplies f32 at least as fast.
#include <algorithm>

#include "tensor/cpu/blas.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

// Products of fewer multiply-adds run on one thread each, several at a time.
constexpr int64_t kLargeProduct = int64_t{1} << 24;
constexpr int64_t kGrain = 1 << 14;  // elements

template <typename T>
void multiply(const Tensor& a, const Tensor& b, const Tensor& bias, const MatmulArgs& args,
              Tensor& out) {
  const int64_t m = out.dim(-2), n = out.dim(-1), k = a.dim(args.trans_a ? -2 : -1);
  const int64_t batch = out.rank() == 3 ? out.dim(0) : 1;
  if (out.numel() == 0) return;
  const int64_t lda = a.dim(-1), ldb = b.dim(-1);
  const T* const a_data = a.data<T>();
  const T* const b_data = b.data<T>();
  T* const out_data = out.data<T>();
  T beta = static_cast<T>(args.beta);
  if (bias.defined()) {
    // out = beta * out + bias first, on which the product is then added.
    const T* const from = bias.data<T>();
    parallel_for(batch * m, std::max<int64_t>(kGrain / n, 1), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        T* const to = out_data + row * n;
        if (beta == T(0))
          std::copy_n(from, n, to);
        else
          for (int64_t j = 0; j < n; ++j) to[j] = beta * to[j] + from[j];
      }
    });
    beta = T(1);
  }
  const auto product = [&](int64_t i) {
    blas::gemm(args.trans_a, args.trans_b, m, n, k, static_cast<T>(args.alpha), a_data + i * m * k,
               lda, b_data + i * k * n, ldb, beta, out_data + i * m * n, n);
  };
  if (batch > 1 && m * n * k < kLargeProduct)
    parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) product(i);
    });
  else
    for (int64_t i = 0; i < batch; ++i) product(i);
}

}  // namespace

void CpuBackend::matmul(const Tensor& a, const Tensor& b, const Tensor& bias,
                        const MatmulArgs& args, Tensor& out) {
  if (a.dtype() == DType::f64) return multiply<double>(a, b, bias, args, out);
  if (a.dtype() == DType::f32) return multiply<float>(a, b, bias, args, out);
  const bool rounds = out.dtype() == DType::bf16;
  Tensor wide = rounds && args.beta == 0.0 ? Tensor::empty(out.shape(), DType::f32)
                                           : out.cast(DType::f32);
  multiply<float>(a.cast(DType::f32), b.cast(DType::f32),
                  bias.defined() ? bias.cast(DType::f32) : bias, args, wide);
  if (rounds) cast(wide, out);
}

}  // namespace facet
