// Layer normalisation of rows x C (Ba et al. 2016), fused with the residual add before it.
#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/loops.h"

namespace facet {

using namespace cpu;

void CpuBackend::layer_norm(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                            const Tensor& beta, double eps, Tensor& sum, Tensor& y, Tensor& mean,
                            Tensor& rstd) {
  for_each_row(x, "layer_norm", [&]<typename T>(T, int64_t row, int64_t cols) {
    using A = acc_t<T>;
    const A *scale = gamma.data<A>(), *shift = beta.data<A>();
    const T* from = x.data<T>() + row * cols;
    if (residual.defined()) {
      const T* other = residual.data<T>() + row * cols;
      T* to = sum.data<T>() + row * cols;
#pragma omp simd
      for (int64_t i = 0; i < cols; ++i) to[i] = static_cast<T>(widen(from[i]) + widen(other[i]));
      from = to;  // what is normalised is what is stored
    }
    const A count = static_cast<A>(cols);
    const A m = sum_terms<A>(0, cols, [=](int64_t i) { return widen(from[i]); }) / count;
    const A variance =
        sum_terms<A>(0, cols,
                     [=](int64_t i) { return (widen(from[i]) - m) * (widen(from[i]) - m); }) /
        count;
    const A r = A(1) / std::sqrt(variance + static_cast<A>(eps));
    T* to = y.data<T>() + row * cols;
#pragma omp simd
    for (int64_t i = 0; i < cols; ++i)
      to[i] = static_cast<T>((widen(from[i]) - m) * r * scale[i] + shift[i]);
    mean.data<A>()[row] = m;
    rstd.data<A>()[row] = r;
  });
}

// With g = gamma dy and n = (x - mean) rstd: dx = rstd (g - mean(g) - n mean(g n)).
void CpuBackend::layer_norm_backward(const Tensor& x, const Tensor& dy, const Tensor& gamma,
                                     const Tensor& mean, const Tensor& rstd, Tensor& dx,
                                     Tensor& dgamma, Tensor& dbeta) {
  dispatch_floating(x.dtype(), "layer_norm_backward", [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const int64_t rows = x.rows(), cols = x.cols();
    const A* scale = gamma.data<A>();
    // Runs of rows, whose column sums are kept apart: cut by the shape alone.
    const int64_t run = std::max<int64_t>(64, (rows + 63) / 64), runs = (rows + run - 1) / run;
    std::vector<A> partial(static_cast<size_t>(2 * runs * cols));
    parallel_for(runs, 1, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        A *const scales = partial.data() + 2 * k * cols, *const shifts = scales + cols;
        for (int64_t row = k * run; row < std::min((k + 1) * run, rows); ++row) {
          const T *from = x.data<T>() + row * cols, *grad = dy.data<T>() + row * cols;
          T* to = dx.data<T>() + row * cols;
          const A m = mean.data<A>()[row], r = rstd.data<A>()[row];
          const A count = static_cast<A>(cols);
          const A plain =
              sum_terms<A>(0, cols, [=](int64_t i) { return scale[i] * widen(grad[i]); }) / count;
          const A along =
              sum_terms<A>(
                  0, cols,
                  [=](int64_t i) { return scale[i] * widen(grad[i]) * (widen(from[i]) - m) * r; }) /
              count;
#pragma omp simd
          for (int64_t i = 0; i < cols; ++i) {
            const A g = widen(grad[i]), n = (widen(from[i]) - m) * r;
            scales[i] += g * n;
            shifts[i] += g;
            to[i] = static_cast<T>(r * (scale[i] * g - plain - n * along));
          }
        }
      }
    });
    for (int64_t i = 0; i < cols; ++i) {
      double scales = 0, shifts = 0;
      for (int64_t k = 0; k < runs; ++k) {
        scales += partial[static_cast<size_t>(2 * k * cols + i)];
        shifts += partial[static_cast<size_t>((2 * k + 1) * cols + i)];
      }
      dgamma.data<A>()[i] = static_cast<A>(scales);
      dbeta.data<A>()[i] = static_cast<A>(shifts);
    }
  });
}

}  // namespace facet
