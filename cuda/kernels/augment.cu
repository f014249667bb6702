// Views of pictures. The operations of a view are cut where one needs more than a pixel: a segment
// begins with the resize, with contrast (which needs the mean luma), with a histogram, a blur or
// pixels from elsewhere, and its other operations follow while the pixel is in registers. Each
// round of launches runs one segment of every view; the last one of a view normalises and writes.
#include "cuda/kernels/augment.cuh"

namespace facet {

using namespace cuda;
using namespace pixels;

namespace {

constexpr int64_t kSharedBytes = int64_t{96} << 10;  // of a strip, so that two blocks fit
constexpr int kStrip = 32;                           // rows of a view that a block makes, at most

// What a segment begins with.
enum class Head : uint8_t { resize, contrast, histogram, blur, gather, none };

struct Segment {
  int32_t view, begin, end;  // operations [begin, end) of its plan
  int32_t round;
  bool last, sums_luma;  // the next segment begins with contrast
  Gather gather;
};

// Where segments read and write.
template <typename T>
struct Stage {
  const ViewWork* views;
  const Segment* segments;
  int64_t count;  // of views
  int height, width;
  uint8_t* between;  // (2, count, height, width, 3): round r writes half r % 2
  unsigned* luma;    // (rounds, count): sums
  uint8_t* tables;   // (count, 3, 256)
  ChannelScale scale;
  T* out;

  __device__ uint8_t* pixel(int round, int view, int64_t at) const {
    return between + 3 * ((round % 2 * count + view) * height * width + at);
  }
  // Runs the segment's operations on pixel `at` and stores it. Its luma where that is wanted.
  __device__ unsigned finish(const Segment& s, Rgb p, int64_t at, int mean) const {
    const ViewPlan& plan = views[s.view].plan;
    for (int i = s.begin; i < s.end; ++i) p = pixel_op(plan.ops[i], p, mean, at, width);
    if (s.last)
      write(scale, p, out + 3 * (static_cast<int64_t>(s.view) * height * width + at));
    else
      store(pixel(s.round, s.view, at), p);
    return s.sums_luma ? pixels::luma(p) : 0;
  }
  // Adds up what the threads of a block found. Integers: the same sum in any order.
  __device__ void add_luma(const Segment& s, unsigned sum) const {
    SHARED_ARRAY(unsigned, scratch, 32);
    if (!s.sums_luma) return;
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) atomicAdd(&luma[s.round * count + s.view], sum);
  }
};

// Weights of every view's columns and rows. Grid (views, 2), block kThreads.
__global__ void taps_kernel(const ViewWork* views, int* taps) {
  const ViewWork& view = views[blockIdx.x];
  const ViewPlan& plan = view.plan;
  const bool rows = blockIdx.y == 1;
  const TapTable table = rows ? view.rows : view.columns;
  const Resampling sampling(rows ? plan.window.height : plan.window.width,
                            rows ? plan.resized_height : plan.resized_width, plan.filter);
  const int first = rows ? plan.view.top : plan.view.left;
  const int count = rows ? plan.view.height : plan.view.width;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    int* const to = taps + table.at + static_cast<int64_t>(i) * table.size;
    to[0] = sampling.first(first + i);
    to[1] = sampling.last(first + i) - to[0];
    sampling.weights(first + i, to + 2);
  }
}

// Crop, resize and flip. Grid (views, strips), block kThreads, shared: the strip's input rows at
// their final width.
template <typename T>
__global__ void resize_kernel(const __grid_constant__ Stage<T> stage, const uint8_t* pixels,
                              const int* taps, int strip) {
  uint8_t* const staged = dynamic_shared<uint8_t>();
  const Segment s = stage.segments[blockIdx.x];
  const ViewWork& view = stage.views[s.view];
  const int width = stage.width, top = static_cast<int>(blockIdx.y) * strip;
  const int bottom = min(top + strip, stage.height);
  const auto row_taps = [&](int y) {
    return taps + view.rows.at + static_cast<int64_t>(y) * view.rows.size;
  };
  const int first = row_taps(top)[0];
  const int rows = row_taps(bottom - 1)[0] + row_taps(bottom - 1)[1] - first;
  for (int i = threadIdx.x; i < rows * width; i += blockDim.x)
    store(staged + 3 * i, resample_row(view, pixels, taps, first + i / width, i % width));
  __syncthreads();
  unsigned luma = 0;
  for (int i = threadIdx.x; i < (bottom - top) * width; i += blockDim.x) {
    const int y = top + i / width, x = i % width, column = view.flipped ? width - 1 - x : x;
    const Rgb p =
        resample(staged + 3 * ((row_taps(y)[0] - first) * width + column), 3 * width, row_taps(y));
    luma += stage.finish(s, p, static_cast<int64_t>(y) * width + x, 0);
  }
  stage.add_luma(s, luma);
}

// The tables of equalize and autocontrast, a thread a value. Grid (segments, 3), block kThreads.
static_assert(kThreads == 256);
template <typename T>
__global__ void table_kernel(const __grid_constant__ Stage<T> stage) {
  SHARED_ARRAY(int, histogram, 256);
  const Segment s = stage.segments[blockIdx.x];
  const int64_t pixels = static_cast<int64_t>(stage.height) * stage.width;
  const uint8_t* const values = stage.pixel(s.round - 1, s.view, 0) + blockIdx.y;
  const int v = static_cast<int>(threadIdx.x);
  histogram[v] = 0;
  __syncthreads();
  for (int64_t i = v; i < pixels; i += kThreads) atomicAdd(&histogram[values[3 * i]], 1);
  __syncthreads();
  int below = 0;
  for (int k = 0; k < v; ++k) below += histogram[k];
  stage.tables[(3 * s.view + static_cast<int>(blockIdx.y)) * 256 + v] =
      Levels(histogram, pixels)(stage.views[s.view].plan.ops[s.begin].kind, v, below);
}

// Contrast, a table or pixels from elsewhere, and what follows. Grid (segments, enough for a view's
// pixels), block kThreads.
template <typename T, Head kHead>
__global__ void points_kernel(const __grid_constant__ Stage<T> stage) {
  const Segment s = stage.segments[blockIdx.x];
  const int width = stage.width;
  const int64_t pixels = static_cast<int64_t>(stage.height) * width;
  const uint8_t* const from = stage.pixel(s.round - 1, s.view, 0);
  const int mean = kHead == Head::contrast
                       ? mean_luma(stage.luma[(s.round - 1) * stage.count + s.view], pixels)
                       : 0;
  unsigned luma = 0;
  for (int64_t i = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; i < pixels;
       i += static_cast<int64_t>(gridDim.y) * blockDim.x) {
    const Rgb p = kHead == Head::gather
                      ? s.gather(from, static_cast<int>(i / width), static_cast<int>(i % width))
                  : kHead == Head::histogram
                      ? looked_up(stage.tables + 768 * int64_t{s.view}, load(from + 3 * i))
                      : load(from + 3 * i);
    luma += stage.finish(s, p, i, mean);
  }
  stage.add_luma(s, luma);
}

// Blur and what follows. Grid (segments, strips), block kThreads, shared: the strip's rows and as
// many above and below as three boxes reach, twice. At the edges of these rows the boxes repeat
// them, which is right at the edges of the view and does not reach the strip elsewhere.
template <typename T>
__global__ void blur_kernel(const __grid_constant__ Stage<T> stage, int strip) {
  const Segment s = stage.segments[blockIdx.x];
  const Box box(stage.views[s.view].plan.ops[s.begin].value);
  const int halo = kBoxPasses * (box.reach + 1), width = stage.width;
  const int top = static_cast<int>(blockIdx.y) * strip, bottom = min(top + strip, stage.height);
  const int low = max(top - halo, 0), rows = min(bottom + halo, stage.height) - low;
  const int values = rows * width * 3;
  uint8_t* from = dynamic_shared<uint8_t>();
  uint8_t* to = from + values;
  const uint8_t* const source = stage.pixel(s.round - 1, s.view, static_cast<int64_t>(low) * width);
  for (int i = threadIdx.x; i < values; i += blockDim.x) from[i] = source[i];
  for (int pass = 0; pass < 2 * kBoxPasses; ++pass) {
    __syncthreads();
    for (int i = threadIdx.x; i < values; i += blockDim.x) {
      const int y = i / (3 * width), x = i / 3 % width, c = i % 3;
      to[i] = pass < kBoxPasses ? box_blurred(from + 3 * width * y + c, width, 3, x, box)
                                : box_blurred(from + 3 * x + c, rows, 3 * width, y, box);
    }
    uint8_t* const before = from;
    from = to;
    to = before;
  }
  __syncthreads();
  unsigned luma = 0;
  for (int i = threadIdx.x; i < (bottom - top) * width; i += blockDim.x)
    luma += stage.finish(s, load(from + 3 * ((top - low) * width + i)),
                         static_cast<int64_t>(top) * width + i, 0);
  stage.add_luma(s, luma);
}

// ---- what is launched

Head head_of(ImageOpKind kind) {
  return kind == ImageOpKind::contrast ? Head::contrast
         : kind == ImageOpKind::blur   ? Head::blur
         : uses_histogram(kind)        ? Head::histogram
         : gathers(kind)               ? Head::gather
                                       : Head::none;
}

// Segments that one launch runs: those of a round that begin alike.
struct Round {
  int32_t number;
  Head head;
  std::vector<Segment> segments;
};

std::vector<Round> rounds_of(const AugmentJob& job) {
  std::vector<Round> rounds;
  const auto append = [&](const Segment& s, Head head) {
    for (Round& round : rounds)
      if (round.number == s.round && round.head == head) return round.segments.push_back(s);
    rounds.push_back({s.round, head, {s}});
  };
  for (size_t v = 0; v < job.views.size(); ++v) {
    const ViewPlan& plan = job.views[v].plan;
    Segment s{static_cast<int32_t>(v), 0, 0, 0, false, false, {}};
    Head head = Head::resize;
    for (int i = 0; i <= plan.count; ++i) {
      s.end = i;
      s.last = i == plan.count;
      const Head next = s.last ? Head::none : head_of(plan.ops[i].kind);
      if (!s.last && next == Head::none) continue;
      s.sums_luma = next == Head::contrast;
      append(s, head);
      if (next == Head::gather) s.gather = gather_of(plan.ops[i], job.height, job.width);
      head = next;
      s.begin = i;
      ++s.round;
    }
  }
  std::stable_sort(rounds.begin(), rounds.end(),
                   [](const Round& a, const Round& b) { return a.number < b.number; });
  return rounds;
}

// Shared bytes of a resize or a blur by strips of that many rows.
int64_t shared_bytes(const AugmentJob& job, const Round& round, int strip) {
  int64_t rows = 0;
  for (const Segment& s : round.segments) {
    const ViewPlan& plan = job.views[static_cast<size_t>(s.view)].plan;
    if (round.head == Head::blur) {
      const int halo = kBoxPasses * (Box(plan.ops[s.begin].value).reach + 1);
      rows = std::max<int64_t>(rows, 2 * std::min(strip + 2 * halo, job.height));
      continue;
    }
    const Resampling sampling(plan.window.height, plan.resized_height, plan.filter);
    for (int top = 0; top < job.height; top += strip) {
      const int bottom = std::min(top + strip, job.height);
      rows = std::max<int64_t>(
          rows, sampling.last(plan.view.top + bottom - 1) - sampling.first(plan.view.top + top));
    }
  }
  return rows * job.width * 3;
}
bool takes_strips(const Round& round) {
  return round.head == Head::resize || round.head == Head::blur;
}
// The most rows whose strip fits; 0: not one row does.
int strip_rows(const AugmentJob& job, const Round& round) {
  int strip = kStrip;
  while (strip > 0 && shared_bytes(job, round, strip) > kSharedBytes) strip /= 2;
  return strip;
}

template <typename T>
void run(const AugmentJob& job, const std::vector<Round>& rounds, Tensor& out) {
  const int64_t count = job.count();
  const int64_t last = rounds.back().number;
  Tensor between, luma, tables;
  if (last > 0) {
    between = Tensor::empty({2 * out.numel()}, DType::u8, out.device());
    luma = Tensor::zeros({last * count}, DType::i32, out.device());
    tables = Tensor::empty({count * 768}, DType::u8, out.device());
  }
  std::vector<Segment> all;
  for (const Round& round : rounds)
    all.insert(all.end(), round.segments.begin(), round.segments.end());
  const Tensor segments = upload(all, out.device());
  Stage<T> stage{job.works(),
                 uploaded<Segment>(segments),
                 count,
                 job.height,
                 job.width,
                 static_cast<uint8_t*>(between.raw()),
                 static_cast<unsigned*>(luma.raw()),
                 static_cast<uint8_t*>(tables.raw()),
                 job.scale,
                 out.data<T>()};
  for (const Round& round : rounds) {
    const auto items = static_cast<unsigned>(round.segments.size());
    if (!takes_strips(round)) {
      const dim3 blocks(items, blocks_for(int64_t{job.height} * job.width).x);
      if (round.head == Head::histogram)
        launch_for<table_kernel<T>>(out, dim3(items, 3), kThreads, 0, stage);
      const auto launch_points = [&]<Head kHead>() {
        if (round.head == kHead)
          launch_for<points_kernel<T, kHead>>(out, blocks, kThreads, 0, stage);
      };
      launch_points.template operator()<Head::contrast>();
      launch_points.template operator()<Head::histogram>();
      launch_points.template operator()<Head::gather>();
    } else {
      const int strip = strip_rows(job, round);
      const dim3 blocks(items, static_cast<unsigned>((job.height + strip - 1) / strip));
      const auto shared = static_cast<size_t>(shared_bytes(job, round, strip));
      if (round.head == Head::blur)
        launch_for<blur_kernel<T>>(out, blocks, kThreads, shared, stage, strip);
      else
        launch_for<resize_kernel<T>>(out, blocks, kThreads, shared, stage, job.pixels,
                                     job.taps.data<int32_t>(), strip);
    }
    stage.segments += items;
  }
}

}  // namespace

cuda::AugmentJob::AugmentJob(const Tensor& pictures, std::span<const ViewPlan> plans,
                             const ChannelScale& how, const Tensor& out)
    : height(static_cast<int>(out.dim(1))),
      width(static_cast<int>(out.dim(2))),
      pixels(pictures.data<uint8_t>()),
      scale(how) {
  int64_t integers = 0;
  const auto table = [&](int from, int to, int outputs, Filter filter) {
    const TapTable made{integers, Resampling(from, to, filter).max_taps() + 2};
    integers += int64_t{made.size} * outputs;
    return made;
  };
  for (const ViewPlan& p : plans) {
    ViewWork& view = views.emplace_back(
        ViewWork{p, table(p.window.width, p.resized_width, width, p.filter),
                 table(p.window.height, p.resized_height, height, p.filter), false});
    view.plan.count = 0;
    bool placed = false;
    for (const ImageOp& op : std::span(p.ops, static_cast<size_t>(p.count))) {
      placed |= op.kind >= ImageOpKind::sharpness;
      if (op.kind == ImageOpKind::flip && !placed)
        view.flipped = !view.flipped;
      else
        view.plan.ops[view.plan.count++] = op;
    }
  }
  views_on_device = upload(views, out.device());
  taps = Tensor::empty({integers}, DType::i32, out.device());
  launch_for<taps_kernel>(out, dim3(static_cast<unsigned>(views.size()), 2), kThreads, 0, works(),
                          taps.data<int32_t>());
}

void CudaBackend::augment(const Tensor& pictures, std::span<const ViewPlan> plans,
                          const ChannelScale& scale, Tensor& out) {
  const AugmentJob job(pictures, plans, scale, out);
  const std::vector<Round> rounds = rounds_of(job);
  const bool fits = std::all_of(rounds.begin(), rounds.end(), [&](const Round& round) {
    return !takes_strips(round) || strip_rows(job, round) > 0;
  });
  // A picture shrunk or blurred so much that no strip fits goes the plain way, too.
  if (kernel_choice() == KernelChoice::naive || !fits) return augment_naive(job, out);
  dispatch_view(out.dtype(), [&](auto tag) { run<decltype(tag)>(job, rounds, out); });
}

}  // namespace facet
