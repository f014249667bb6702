// Matrix products: f32 and f64 by OpenBLAS, bf16 by oneDNN with sums in f32. A matrix times its own
// transpose costs half: one triangle is computed and mirrored.
#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <mutex>

#include "tensor/cpu/blas.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/dnnl.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

// Products of fewer multiply-adds run on one thread each, several at a time.
constexpr int64_t kLargeProduct = int64_t{1} << 24;
constexpr int64_t kGrain = 1 << 14;  // elements

// c (n, n) = alpha a a^T, or alpha a^T a with `trans`.
template <typename T>
void multiply_by_own_transpose(bool trans, int64_t n, int64_t k, T alpha, const T* a, int64_t lda,
                               T* c) {
  blas::syrk(trans, n, k, alpha, a, lda, T(0), c, n);
  constexpr int64_t kTile = 64;  // rows and columns copied at a time stay in the first cache
  const int64_t tiles = (n + kTile - 1) / kTile;
  parallel_for(tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t t = 0; t <= r; ++t)
        for (int64_t i = r * kTile; i < std::min(n, (r + 1) * kTile); ++i)
          for (int64_t j = t * kTile; j < std::min(i, (t + 1) * kTile); ++j)
            c[i * n + j] = c[j * n + i];
  });
}

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
  const bool own_transpose =
      a.raw() == b.raw() && a.shape() == b.shape() && args.trans_a != args.trans_b;
  const auto product = [&](int64_t i) {
    if (own_transpose && beta == T(0) && m * n * k >= kLargeProduct)
      return multiply_by_own_transpose(args.trans_a, n, k, static_cast<T>(args.alpha),
                                       a_data + i * m * k, lda, out_data + i * m * n);
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

// A oneDNN product of bf16 matrices for one set of extents, with a bf16 or an f32 result.
struct Bf16Product {
  dnnl::matmul primitive;
  dnnl::memory::desc a, b, out;
};

// Empty where the processor has no bf16 arithmetic.
const Bf16Product* bf16_product(const std::array<int64_t, 8>& key) {
  static std::mutex mutex;
  static std::map<std::array<int64_t, 8>, std::unique_ptr<Bf16Product>> made;
  std::lock_guard lock(mutex);
  const auto [place, is_new] = made.try_emplace(key);
  if (!is_new) return place->second.get();
  const auto [batch, m, n, k, trans_a, trans_b, wide, threads] = key;
  using dnnl::memory;
  const auto type = memory::data_type::bf16;
  const memory::desc a({batch, m, k}, type,
                       trans_a ? memory::dims{m * k, 1, m} : memory::dims{m * k, k, 1});
  const memory::desc b({batch, k, n}, type,
                       trans_b ? memory::dims{k * n, 1, k} : memory::dims{k * n, n, 1});
  const memory::desc out({batch, m, n}, wide ? memory::data_type::f32 : type,
                         memory::dims{m * n, n, 1});
  try {
    const dnnl::matmul::primitive_desc description({a, b, out}, onednn::engine());
    place->second =
        std::make_unique<Bf16Product>(Bf16Product{dnnl::matmul(description), a, b, out});
  } catch (const dnnl::error&) {
  }
  return place->second.get();
}

// False where this product has to go through f32.
bool multiply_bf16(const Tensor& a, const Tensor& b, const Tensor& bias, const MatmulArgs& args,
                   Tensor& out) {
  const int64_t m = out.dim(-2), n = out.dim(-1), k = a.dim(args.trans_a ? -2 : -1);
  // Single rows and columns, whose strides do not tell a matrix from its transpose, are rare.
  if (bias.defined() || args.alpha != 1.0 || args.beta != 0.0 || m == 1 || n == 1 || k <= 1)
    return false;
  const int64_t batch = out.rank() == 3 ? out.dim(0) : 1;
  const Bf16Product* product = bf16_product(
      {batch, m, n, k, args.trans_a, args.trans_b, out.dtype() == DType::f32, num_threads()});
  if (!product) return false;
  product->primitive.execute(onednn::stream(),
                             {{DNNL_ARG_SRC, onednn::wrap(product->a, a.raw())},
                              {DNNL_ARG_WEIGHTS, onednn::wrap(product->b, b.raw())},
                              {DNNL_ARG_DST, onednn::wrap(product->out, out.raw())}});
  onednn::stream().wait();
  return true;
}

}  // namespace

void CpuBackend::matmul(const Tensor& a, const Tensor& b, const Tensor& bias,
                        const MatmulArgs& args, Tensor& out) {
  if (a.dtype() == DType::f64) return multiply<double>(a, b, bias, args, out);
  if (a.dtype() == DType::f32) return multiply<float>(a, b, bias, args, out);
  if (multiply_bf16(a, b, bias, args, out)) return;
  const bool rounds = out.dtype() == DType::bf16;
  Tensor wide =
      rounds && args.beta == 0.0 ? Tensor::empty(out.shape(), DType::f32) : out.cast(DType::f32);
  multiply<float>(a.cast(DType::f32), b.cast(DType::f32),
                  bias.defined() ? bias.cast(DType::f32) : bias, args, wide);
  if (rounds) cast(wide, out);
}

}  // namespace facet
