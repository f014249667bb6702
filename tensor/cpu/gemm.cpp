// Matrix products: f32 and bf16 by oneDNN with sums in f32, f64 by OpenBLAS. A matrix times its own
// transpose costs half: one triangle is computed and mirrored (OpenBLAS). OpenBLAS multiplies wide
// right matrices, too: oneDNN 2.6 falls to half its speed or a third there (docs/benchmarks).
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
constexpr int64_t kGemmGrain = 1 << 14;  // elements

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

// A oneDNN product for one set of extents and types. The scratch memory is the caller's: oneDNN's
// own is one for all threads that run the primitive.
struct Product {
  dnnl::matmul primitive;
  dnnl::memory::desc a, b, out, scratchpad;
};
// batch, m, n, k, transposed a and b, type of a and b, of out, adds to out, threads
using ProductKey = std::array<int64_t, 10>;

// Empty where oneDNN has none: bf16 on a processor without bf16 arithmetic.
const Product* find_product(const ProductKey& key) {
  static std::mutex mutex;
  static auto* made = new std::map<ProductKey, std::unique_ptr<Product>>;  // as conv.cpp's plans
  std::lock_guard lock(mutex);
  const auto [place, is_new] = made->try_emplace(key);
  if (!is_new) return place->second.get();
  const auto [batch, m, n, k, trans_a, trans_b, type_in, type_out, adds, threads] = key;
  using dnnl::memory;
  const memory::data_type in = onednn::type_of(static_cast<DType>(type_in));
  const memory::desc a({batch, m, k}, in,
                       trans_a ? memory::dims{m * k, 1, m} : memory::dims{m * k, k, 1});
  const memory::desc b({batch, k, n}, in,
                       trans_b ? memory::dims{k * n, 1, k} : memory::dims{k * n, n, 1});
  const memory::desc out({batch, m, n}, onednn::type_of(static_cast<DType>(type_out)),
                         memory::dims{m * n, n, 1});
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (adds) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  try {
    const dnnl::matmul::primitive_desc description({a, b, out}, attributes, onednn::engine());
    place->second = std::make_unique<Product>(
        Product{dnnl::matmul(description), a, b, out, description.scratchpad_desc()});
  } catch (const dnnl::error&) {
  }
  return place->second.get();
}

// out = a b, or out += a b. False where oneDNN does not take it.
bool multiply_onednn(const Tensor& a, const Tensor& b, const MatmulArgs& args, bool adds,
                     Tensor& out) {
  const int64_t m = out.dim(-2), n = out.dim(-1), k = a.dim(args.trans_a ? -2 : -1);
  // Single rows and columns, whose strides do not tell a matrix from its transpose, are rare.
  if (args.alpha != 1.0 || m <= 1 || n <= 1 || k <= 1) return false;
  const int64_t batch = out.rank() == 3 ? out.dim(0) : 1;
  const Product* product =
      find_product({batch, m, n, k, args.trans_a, args.trans_b, static_cast<int64_t>(a.dtype()),
                    static_cast<int64_t>(out.dtype()), adds, num_threads()});
  if (!product) return false;
  const onednn::Scratch scratch(product->scratchpad.get_size());
  product->primitive.execute(
      onednn::stream(), {{DNNL_ARG_SCRATCHPAD, onednn::wrap(product->scratchpad, scratch.data())},
                         {DNNL_ARG_SRC, onednn::wrap(product->a, a.raw())},
                         {DNNL_ARG_WEIGHTS, onednn::wrap(product->b, b.raw())},
                         {DNNL_ARG_DST, onednn::wrap(product->out, out.raw())}});
  onednn::stream().wait();
  return true;
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
    parallel_for(batch * m, std::max<int64_t>(kGemmGrain / n, 1), [&](int64_t begin, int64_t end) {
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
  const bool by_syrk = a.raw() == b.raw() && a.shape() == b.shape() && m * n * k >= kLargeProduct &&
                       args.trans_a != args.trans_b && beta == T(0);
  const bool wide = !args.trans_b && n > 2048 && std::min(m, k) >= 512;
  if constexpr (std::is_same_v<T, float>)
    if (!by_syrk && !wide && (beta == T(0) || beta == T(1)) &&
        multiply_onednn(a, b, args, beta == T(1), out))
      return;
  const auto product = [&](int64_t i) {
    if (by_syrk)
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

}  // namespace

void CpuBackend::matmul(const Tensor& a, const Tensor& b, const Tensor& bias,
                        const MatmulArgs& args, Tensor& out) {
  if (a.dtype() == DType::f64) return multiply<double>(a, b, bias, args, out);
  if (a.dtype() == DType::f32) return multiply<float>(a, b, bias, args, out);
  if (!bias.defined() && args.beta == 0.0 && multiply_onednn(a, b, args, /*adds=*/false, out))
    return;
  const bool rounds = out.dtype() == DType::bf16;
  Tensor wide =
      rounds && args.beta == 0.0 ? Tensor::empty(out.shape(), DType::f32) : out.cast(DType::f32);
  multiply<float>(a.cast(DType::f32), b.cast(DType::f32),
                  bias.defined() ? bias.cast(DType::f32) : bias, args, wide);
  if (rounds) cast(wide, out);
}

}  // namespace facet
