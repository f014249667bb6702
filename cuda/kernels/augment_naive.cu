// Views of pictures, one plain launch for each operation: the twin of augment.cu.
#include "cuda/kernels/augment.cuh"

namespace facet {

using namespace cuda;
using namespace pixels;

namespace {

// One thread a pixel of an (N, height, width) batch.
struct Place {
  int64_t view;
  int y, x;
  __device__ Place(int64_t i, int height, int width)
      : view(i / (int64_t{height} * width)),
        y(static_cast<int>(i / width % height)),
        x(static_cast<int>(i % width)) {}
};

// Rows of every window at their final width, into (N, tallest window, width, 3).
struct ResizeRows {
  const ViewWork* views;
  const uint8_t* pixels;
  const int* taps;
  int tallest, width;
  uint8_t* to;
  __device__ void operator()(int64_t i) const {
    const Place at(i, tallest, width);
    const ViewWork& view = views[at.view];
    if (at.y >= view.plan.window.height) return;
    store(to + 3 * i, resample_row(view, pixels, taps, at.y, at.x));
  }
};
struct ResizeColumns {
  const ViewWork* views;
  const uint8_t* from;
  const int* taps;
  int tallest, height, width;
  uint8_t* to;
  __device__ void operator()(int64_t i) const {
    const Place at(i, height, width);
    const ViewWork& view = views[at.view];
    const int x = view.flipped ? width - 1 - at.x : at.x;
    const int* const row = taps + view.rows.at + static_cast<int64_t>(at.y) * view.rows.size;
    store(to + 3 * i,
          resample(from + 3 * ((at.view * tallest + row[0]) * width + x), 3 * width, row));
  }
};

// sums[view] = the view's luma. Grid: views; block: kThreads.
__global__ void luma_kernel(const uint8_t* views, int64_t pixels, unsigned* sums) {
  SHARED_ARRAY(unsigned, scratch, 32);
  unsigned sum = 0;
  for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x)
    sum += pixels::luma(load(views + 3 * (blockIdx.x * pixels + i)));
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Operation `which` of every plan that has one, where it treats each pixel by itself.
struct PointOp {
  const ViewWork* views;
  const unsigned* luma;
  int64_t pixels;
  int which;
  uint8_t* at;
  __device__ void operator()(int64_t i) const {
    const ViewPlan& plan = views[i / pixels].plan;
    if (which >= plan.count) return;
    const ImageOp& op = plan.ops[which];
    store(at + 3 * i,
          pixel_op(op.kind, op.value, load(at + 3 * i), mean_luma(luma[i / pixels], pixels)));
  }
};

// One pass of a box blur; views without one at `which` are copied.
struct BlurPass {
  const ViewWork* views;
  int height, width, which;
  bool vertical;
  const uint8_t* from;
  uint8_t* to;
  __device__ void operator()(int64_t i) const {
    const Place at(i, height, width);
    const ViewPlan& plan = views[at.view].plan;
    const bool blurs = which < plan.count && plan.ops[which].kind == ImageOpKind::blur;
    for (int c = 0; c < 3; ++c) {
      if (!blurs) {
        to[3 * i + c] = from[3 * i + c];
        continue;
      }
      const Box box(plan.ops[which].value);
      const uint8_t* const view = from + 3 * at.view * height * width + c;
      to[3 * i + c] = vertical ? box_blurred(view + 3 * at.x, height, 3 * width, at.y, box)
                               : box_blurred(view + 3 * at.y * width, width, 3, at.x, box);
    }
  }
};

template <typename T>
struct Normalize {
  const uint8_t* from;
  ChannelScale scale;
  T* to;
  __device__ void operator()(int64_t i) const { write(scale, load(from + 3 * i), to + 3 * i); }
};

}  // namespace

void cuda::augment_naive(const AugmentJob& job, Tensor& out) {
  int tallest = 0, longest = 0;
  for (const ViewWork& view : job.views) {
    tallest = std::max(tallest, view.plan.window.height);
    longest = std::max(longest, view.plan.count);
  }
  const int64_t pixels = int64_t{job.height} * job.width, all = job.count() * pixels;
  const int* taps = job.taps.data<int32_t>();
  Tensor rows = Tensor::empty({job.count() * tallest * job.width * 3}, DType::u8, out.device());
  Tensor views = Tensor::empty({3 * all}, DType::u8, out.device());
  Tensor other = Tensor::empty_like(views);
  Tensor luma = Tensor::zeros({job.count()}, DType::i32, out.device());
  uint8_t *at = views.data<uint8_t>(), *to = other.data<uint8_t>();
  auto* const sums = static_cast<unsigned*>(luma.raw());
  map(out, job.count() * tallest * job.width,
      ResizeRows{job.works(), job.pixels, taps, tallest, job.width, rows.data<uint8_t>()});
  map(out, all,
      ResizeColumns{job.works(), rows.data<uint8_t>(), taps, tallest, job.height, job.width, at});
  for (int k = 0; k < longest; ++k) {
    const auto some_view = [&](ImageOpKind kind) {
      return std::any_of(job.views.begin(), job.views.end(), [&](const ViewWork& view) {
        return k < view.plan.count && view.plan.ops[k].kind == kind;
      });
    };
    if (some_view(ImageOpKind::contrast))
      launch_for<luma_kernel>(out, static_cast<unsigned>(job.count()), kThreads, 0, at, pixels,
                              sums);
    map(out, all, PointOp{job.works(), sums, pixels, k, at});
    if (!some_view(ImageOpKind::blur)) continue;
    for (int pass = 0; pass < 2 * kBoxPasses; ++pass, std::swap(at, to))
      map(out, all, BlurPass{job.works(), job.height, job.width, k, pass >= kBoxPasses, at, to});
  }
  dispatch_view(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    map(out, all, Normalize<T>{at, job.scale, out.data<T>()});
  });
}

}  // namespace facet
