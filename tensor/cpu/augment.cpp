// Views of pictures, and what mixes or erases whole batches of images.
#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/loops.h"
#include "tensor/image.h"

namespace facet {

using namespace cpu;

void CpuBackend::augment(const Tensor& pixels, std::span<const ViewPlan> plans,
                         const ChannelScale& scale, Tensor& out) {
  const uint8_t* pictures = pixels.data<uint8_t>();
  const int64_t values = out.numel() / out.dim(0);
  const auto write = [&](auto* to) {
    parallel_for(out.dim(0), 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const ViewPlan& plan = plans[static_cast<size_t>(i)];
        normalize(make_view(plan, pictures + plan.offset), scale, to + i * values);
      }
    });
  };
  if (out.dtype() == DType::u8) return write(out.data<uint8_t>());
  dispatch_floating(out.dtype(), "augment", [&](auto tag) { write(out.data<decltype(tag)>()); });
}

void CpuBackend::mix_reversed(const Tensor& x, double weight, const Rectangle& box, Tensor& y) {
  dispatch_floating(x.dtype(), "mix_reversed", [&](auto tag) {
    using T = decltype(tag);
    const int64_t h = x.dim(1), row = x.dim(2) * x.dim(3);
    const int64_t begin = box.left * x.dim(3), end = begin + box.width * x.dim(3);
    const auto a = static_cast<acc_t<T>>(weight), b = static_cast<acc_t<T>>(1 - weight);
    for_each_row(x.dim(0) * h, row, [&](int64_t r) {
      const int64_t image = r / h, line = r % h;
      const T* from = x.data<T>() + r * row;
      const T* partner = x.data<T>() + ((x.dim(0) - 1 - image) * h + line) * row;
      T* to = y.data<T>() + r * row;
      std::copy_n(from, row, to);
      if (line < box.top || line >= box.top + box.height) return;
      for (int64_t i = begin; i < end; ++i)
        to[i] = static_cast<T>(std::fma(a, widen(from[i]), b * widen(partner[i])));
    });
  });
}

void CpuBackend::erase(std::span<const EraseBox> boxes, EraseFill fill, const RandomKey& key,
                       Tensor& x) {
  dispatch_floating(x.dtype(), "erase", [&](auto tag) {
    using T = decltype(tag);
    const int64_t h = x.dim(1), w = x.dim(2), c = x.dim(3);
    for (const EraseBox& e : boxes)
      for_each_row(e.box.height, e.box.width * c, [&](int64_t y) {
        const int64_t begin = ((e.image * h + e.box.top + y) * w + e.box.left) * c;
        for (int64_t i = begin; i < begin + e.box.width * c; ++i)
          x.data<T>()[i] = fill == EraseFill::constant
                               ? T(0.0f)
                               : static_cast<T>(normal_at(
                                     key, fill == EraseFill::pixel ? i : e.image * c + i % c));
      });
  });
}

}  // namespace facet
