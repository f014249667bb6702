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

// The table of channel i % 3 of view i / 3 for operation `which`, where it needs one.
struct Table {
  const ViewWork* views;
  const uint8_t* from;
  int64_t pixels;
  int which;
  uint8_t* tables;
  __device__ void operator()(int64_t i) const {
    const ViewPlan& plan = views[i / 3].plan;
    if (which >= plan.count || !uses_histogram(plan.ops[which].kind)) return;
    int histogram[256] = {};
    const uint8_t* const values = from + i / 3 * pixels * 3 + i % 3;
    for (int64_t k = 0; k < pixels; ++k) ++histogram[values[3 * k]];
    const Levels levels(histogram, pixels);
    for (int v = 0, below = 0; v < 256; below += histogram[v++])
      tables[256 * i + v] = levels(plan.ops[which].kind, v, below);
  }
};

// Operation `which` of every plan that has one, where it takes each pixel by itself or by a table.
struct PointOp {
  const ViewWork* views;
  const unsigned* luma;
  const uint8_t* tables;
  int64_t pixels;
  int width, which;
  uint8_t* at;
  __device__ void operator()(int64_t i) const {
    const ViewPlan& plan = views[i / pixels].plan;
    if (which >= plan.count) return;
    const ImageOp& op = plan.ops[which];
    Rgb p = load(at + 3 * i);
    if (uses_histogram(op.kind)) p = looked_up(tables + i / pixels * 768, p);
    store(at + 3 * i, pixel_op(op, p, mean_luma(luma[i / pixels], pixels), i % pixels, width));
  }
};

// Views without a gather at `which` are copied.
struct GatherOp {
  const ViewWork* views;
  const Gather* gathers_of_views;
  int height, width, which;
  const uint8_t* from;
  uint8_t* to;
  __device__ void operator()(int64_t i) const {
    const Place at(i, height, width);
    const ViewPlan& plan = views[at.view].plan;
    store(to + 3 * i,
          which < plan.count && gathers(plan.ops[which].kind)
              ? gathers_of_views[at.view](from + 3 * at.view * height * width, at.y, at.x)
              : load(from + 3 * i));
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
  Tensor tables = Tensor::empty({job.count() * 768}, DType::u8, out.device());
  uint8_t *at = views.data<uint8_t>(), *to = other.data<uint8_t>();
  auto* const sums = static_cast<unsigned*>(luma.raw());
  map(out, job.count() * tallest * job.width,
      ResizeRows{job.works(), job.pixels, taps, tallest, job.width, rows.data<uint8_t>()});
  map(out, all,
      ResizeColumns{job.works(), rows.data<uint8_t>(), taps, tallest, job.height, job.width, at});
  for (int k = 0; k < longest; ++k) {
    bool contrast = false, blur = false, table = false, gather = false;
    std::vector<Gather> gathers_of_views(job.views.size());
    for (size_t v = 0; v < job.views.size(); ++v) {
      if (k >= job.views[v].plan.count) continue;
      const ImageOp& op = job.views[v].plan.ops[k];
      contrast |= op.kind == ImageOpKind::contrast;
      blur |= op.kind == ImageOpKind::blur;
      table |= uses_histogram(op.kind);
      if (!gathers(op.kind)) continue;
      gather = true;
      gathers_of_views[v] = gather_of(op, job.height, job.width);
    }
    if (contrast)
      launch_for<luma_kernel>(out, static_cast<unsigned>(job.count()), kThreads, 0, at, pixels,
                              sums);
    if (table) map(out, 3 * job.count(), Table{job.works(), at, pixels, k, tables.data<uint8_t>()});
    map(out, all, PointOp{job.works(), sums, tables.data<uint8_t>(), pixels, job.width, k, at});
    if (gather) {
      const Tensor uploads = upload(gathers_of_views, out.device());
      map(out, all,
          GatherOp{job.works(), uploaded<Gather>(uploads), job.height, job.width, k, at, to});
      std::swap(at, to);
    }
    for (int pass = 0; blur && pass < 2 * kBoxPasses; ++pass, std::swap(at, to))
      map(out, all, BlurPass{job.works(), job.height, job.width, k, pass >= kBoxPasses, at, to});
  }
  dispatch_view(out.dtype(), [&](auto tag) {
    using T = decltype(tag);
    map(out, all, Normalize<T>{at, job.scale, out.data<T>()});
  });
}

}  // namespace facet
