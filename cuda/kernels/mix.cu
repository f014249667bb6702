// Images of a batch mixed with each other, and erased boxes.
#include "cuda/kernels/tensors.cuh"

namespace facet {

using namespace cuda;

namespace {

template <typename T>
struct MixReversed {
  const T* x;
  acc_t<T> weight, other;
  Rectangle box;
  int64_t n, h, w, c;
  T* y;
  __device__ void operator()(int64_t i) const {
    const int64_t column = i / c % w, row = i / (c * w) % h, image = i / (c * w * h);
    const bool inside = row >= box.top && row < box.top + box.height && column >= box.left &&
                        column < box.left + box.width;
    const int64_t partner = i + (n - 1 - 2 * image) * c * w * h;
    y[i] = inside ? static_cast<T>(std::fma(weight, widen(x[i]), other * widen(x[partner]))) : x[i];
  }
};

// Grid (boxes, enough for the largest), block kThreads.
template <typename T>
__global__ void erase_kernel(const EraseBox* boxes, EraseFill fill, RandomKey key, int64_t h,
                             int64_t w, int64_t c, T* x) {
  const EraseBox e = boxes[blockIdx.x];
  const int64_t line = e.box.width * c, count = e.box.height * line;
  for (int64_t k = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; k < count;
       k += static_cast<int64_t>(gridDim.y) * blockDim.x) {
    const int64_t i = ((e.image * h + e.box.top + k / line) * w + e.box.left) * c + k % line;
    x[i] = fill == EraseFill::constant
               ? T(0.0f)
               : static_cast<T>(normal_at(key, fill == EraseFill::pixel ? i : e.image * c + i % c));
  }
}

}  // namespace

void CudaBackend::mix_reversed(const Tensor& x, double weight, const Rectangle& box, Tensor& y) {
  dispatch_floating(x.dtype(), "mix_reversed", [&](auto tag) {
    using T = decltype(tag);
    map(y, y.numel(),
        MixReversed<T>{x.data<T>(), static_cast<acc_t<T>>(weight),
                       static_cast<acc_t<T>>(1 - weight), box, x.dim(0), x.dim(1), x.dim(2),
                       x.dim(3), y.data<T>()});
  });
}

void CudaBackend::erase(std::span<const EraseBox> boxes, EraseFill fill, const RandomKey& key,
                        Tensor& x) {
  int64_t largest = 0;
  for (const EraseBox& e : boxes)
    largest = std::max(largest, int64_t{e.box.height} * e.box.width * x.dim(3));
  const Tensor there = upload(std::vector<EraseBox>(boxes.begin(), boxes.end()), x.device());
  const dim3 blocks(static_cast<unsigned>(boxes.size()), blocks_for(largest).x);
  dispatch_floating(x.dtype(), "erase", [&](auto tag) {
    using T = decltype(tag);
    launch_for<erase_kernel<T>>(x, blocks, kThreads, 0, uploaded<EraseBox>(there), fill, key,
                                x.dim(1), x.dim(2), x.dim(3), x.data<T>());
  });
}

}  // namespace facet
