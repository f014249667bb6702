#include "data/pipeline.h"

#include <algorithm>
#include <cmath>

#include "tensor/check.h"

namespace facet {
namespace {
void set_geometry(ViewPlan& plan, const Rectangle& window, int resized_height, int resized_width,
                  const Rectangle& view, Filter filter) {
  const auto is_whole = [&](int h, int w) { return h == plan.height && w == plan.width; };
  FACET_CHECK(plan.count == 0 && is_whole(plan.window.height, plan.window.width) &&
                  is_whole(plan.resized_height, plan.resized_width) &&
                  is_whole(plan.view.height, plan.view.width),
              "pipeline", "expected one step that crops or resizes, before all others");
  plan.window = window;
  plan.resized_height = resized_height;
  plan.resized_width = resized_width;
  plan.view = view;
  plan.filter = filter;
}

PipelineStep with_chance(double probability, ImageOp op) {
  return {[=](ViewPlan& plan, RandomSequence& random) {
    if (random.bernoulli(probability)) add(plan, op);
  }};
}

ImageOp op(ImageOpKind kind, float value = 0) {
  return {.kind = kind, .value = value};
}
}  // namespace

void add(ViewPlan& plan, const ImageOp& op) {
  FACET_CHECK(plan.count < ViewPlan::kMaxOps, "pipeline", "expected at most {} operations a view",
              ViewPlan::kMaxOps);
  plan.ops[plan.count++] = op;
}

Rectangle random_resized_window(int height, int width, double low, double high,
                                RandomSequence& random) {
  constexpr double kLowAspect = 3.0 / 4.0, kHighAspect = 4.0 / 3.0;
  const double area = static_cast<double>(height) * width;
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * random.uniform(low, high);
    const double aspect = std::exp(random.uniform(std::log(kLowAspect), std::log(kHighAspect)));
    const int w = static_cast<int>(std::nearbyint(std::sqrt(target * aspect)));
    const int h = static_cast<int>(std::nearbyint(std::sqrt(target / aspect)));
    if (w <= 0 || w > width || h <= 0 || h > height) continue;
    const int top = static_cast<int>(random.below(static_cast<uint64_t>(height - h + 1)));
    const int left = static_cast<int>(random.below(static_cast<uint64_t>(width - w + 1)));
    return {top, left, h, w};
  }
  const double aspect = static_cast<double>(width) / height;
  int w = width, h = height;
  if (aspect < kLowAspect)
    h = static_cast<int>(std::nearbyint(w / kLowAspect));
  else if (aspect > kHighAspect)
    w = static_cast<int>(std::nearbyint(h * kHighAspect));
  return {(height - h) / 2, (width - w) / 2, h, w};
}

PipelineStep random_resized_crop(int size, double low, double high, std::optional<Filter> filter) {
  return {[=](ViewPlan& plan, RandomSequence& random) {
    const Rectangle w = random_resized_window(plan.height, plan.width, low, high, random);
    const Filter with = filter                 ? *filter
                        : random.below(2) != 0 ? Filter::bicubic
                                               : Filter::bilinear;
    set_geometry(plan, w, size, size, {0, 0, size, size}, with);
  }};
}

PipelineStep random_flip(double probability) {
  return with_chance(probability, op(ImageOpKind::flip));
}

PipelineStep color_jitter(double brightness, double contrast, double saturation, double hue,
                          double probability) {
  return {[=](ViewPlan& plan, RandomSequence& random) {
    if (!random.bernoulli(probability)) return;
    std::array<int, 4> order{0, 1, 2, 3};
    random.shuffle(order);
    const auto factor = [&](double x) {
      return static_cast<float>(random.uniform(std::max(0.0, 1.0 - x), 1.0 + x));
    };
    const float b = factor(brightness), c = factor(contrast), s = factor(saturation);
    const double h = random.uniform(-hue, hue);
    for (const int which : order) {
      if (which == 0 && brightness > 0) add(plan, op(ImageOpKind::brightness, b));
      if (which == 1 && contrast > 0) add(plan, op(ImageOpKind::contrast, c));
      if (which == 2 && saturation > 0) add(plan, op(ImageOpKind::saturation, s));
      if (which == 3 && hue > 0) add(plan, op(ImageOpKind::hue, hue_turn(h)));
    }
  }};
}

PipelineStep random_gray(double probability) {
  return with_chance(probability, op(ImageOpKind::gray));
}

PipelineStep random_blur(double probability, double low, double high) {
  return {[=](ViewPlan& plan, RandomSequence& random) {
    if (!random.bernoulli(probability)) return;
    const auto sigma = static_cast<float>(random.uniform(low, high));
    add(plan, op(ImageOpKind::blur, blur_radius(sigma)));
  }};
}

PipelineStep random_solarize(double probability, int threshold) {
  return with_chance(probability, op(ImageOpKind::solarize, static_cast<float>(threshold)));
}

PipelineStep resize_and_center_crop(int size_to, int size, Filter filter) {
  return {[=](ViewPlan& plan, RandomSequence&) {
    const int h = plan.height, w = plan.width, shorter = std::min(h, w);
    const auto resized = [&](int side) {
      return static_cast<int>(static_cast<int64_t>(size_to) * side / shorter);
    };
    // torchvision rounds halves to even
    const auto offset = [&](int extent) {
      return static_cast<int>(std::nearbyint((extent - size) / 2.0));
    };
    set_geometry(plan, plan.window, resized(h), resized(w),
                 {offset(resized(h)), offset(resized(w)), size, size}, filter);
  }};
}

PipelineStep resize_to(int size, Filter filter) {
  return {[=](ViewPlan& plan, RandomSequence&) {
    set_geometry(plan, plan.window, size, size, {0, 0, size, size}, filter);
  }};
}

void PipelineStep::apply(Image& image, RandomSequence& random) const {
  ViewPlan plan = ViewPlan::whole(image.height, image.width);
  draw(plan, random);
  image = make_view(plan, image.pixels.data());
}

ViewPlan Pipeline::plan(int height, int width, RandomSequence random) const {
  ViewPlan plan = ViewPlan::whole(height, width);
  for (const PipelineStep& step : steps_) step.draw(plan, random);
  FACET_CHECK(plan.view.height == size_ && plan.view.width == size_, "pipeline",
              "expected {0}x{0} after the last step, got {1}x{2}", size_, plan.view.height,
              plan.view.width);
  return plan;
}

ChannelScale Pipeline::scale() const {
  ChannelScale result;
  for (size_t c = 0; c < 3; ++c) {
    result.scale[c] = 1.0f / (255.0f * normalization_.std[c]);
    result.shift[c] = -normalization_.mean[c] / normalization_.std[c];
  }
  return result;
}

Image Pipeline::view(const Image& image, RandomSequence random) const {
  return make_view(plan(image.height, image.width, random), image.pixels.data());
}

Rectangle shown_part(std::span<const ViewPlan> plans) {
  FACET_CHECK(!plans.empty(), "shown_part", "no views");
  Rectangle part = plans[0].window;
  for (const ViewPlan& plan : plans) {
    const Rectangle& w = plan.window;
    const int bottom = std::max(part.top + part.height, w.top + w.height);
    const int right = std::max(part.left + part.width, w.left + w.width);
    part.top = std::min(part.top, w.top);
    part.left = std::min(part.left, w.left);
    part.height = bottom - part.top;
    part.width = right - part.left;
  }
  return part;
}

void narrow(std::span<ViewPlan> plans, const Rectangle& part) {
  for (ViewPlan& plan : plans) {
    plan.height = part.height;
    plan.width = part.width;
    plan.window.top -= part.top;
    plan.window.left -= part.left;
  }
}

Pipeline small_pipeline(int size, const Normalization& n, double low, double high, Filter filter,
                        bool grey, bool solarize) {
  std::vector<PipelineStep> steps = {
      random_resized_crop(size, low, high, filter), random_flip(),
      grey ? color_jitter(.8, .8, 0, 0, .8) : color_jitter(.4, .4, .4, .1, .8)};
  if (!grey) steps.push_back(random_gray(.2));
  if (solarize) steps.push_back(random_solarize(.2));
  return {size, n, std::move(steps)};
}

Pipeline moco_v2_pipeline(int size, const Normalization& n, double min_area) {
  return {
      size,
      n,
      {random_resized_crop(size, min_area, 1, Filter::bilinear), color_jitter(.4, .4, .4, .1, .8),
       random_gray(.2), random_blur(.5, .1, 2), random_flip()}};
}

Pipeline swav_pipeline(int size, const Normalization& n, double low, double high) {
  return {size,
          n,
          {random_resized_crop(size, low, high, Filter::bilinear), random_flip(),
           color_jitter(.8, .8, .8, .2, .8), random_gray(.2), random_blur(.5, .1, 2)}};
}

Pipeline dino_pipeline(int size, const Normalization& n, DinoView view, double low, double high) {
  const double blur = view == DinoView::global1 ? 1 : view == DinoView::global2 ? .1 : .5;
  std::vector<PipelineStep> steps = {random_resized_crop(size, low, high, Filter::bicubic),
                                     random_flip(), color_jitter(.4, .4, .2, .1, .8),
                                     random_gray(.2), random_blur(blur, .1, 2)};
  if (view == DinoView::global2) steps.push_back(random_solarize(.2));
  return {size, n, std::move(steps)};
}

Pipeline mae_pipeline(int size, const Normalization& n, double min_area) {
  return {size, n, {random_resized_crop(size, min_area, 1, Filter::bicubic), random_flip()}};
}

Pipeline supcon_pipeline(int size, const Normalization& n, double min_area) {
  return {size,
          n,
          {random_resized_crop(size, min_area, 1, Filter::bilinear), random_flip(),
           color_jitter(.4, .4, .4, .1, .8), random_gray(.2)}};
}

Pipeline supervised_pipeline(int size, const Normalization& n, double min_area) {
  return {size, n, {random_resized_crop(size, min_area, 1, Filter::bilinear), random_flip()}};
}

Pipeline eval_pipeline(int size, const Normalization& n, double crop_ratio, Filter filter) {
  if (crop_ratio == 1.0) return {size, n, {resize_to(size, filter)}};
  const int larger = static_cast<int>(std::nearbyint(size / crop_ratio));
  return {size, n, {resize_and_center_crop(larger, size, filter)}};
}

}  // namespace facet
