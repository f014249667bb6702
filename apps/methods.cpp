#include "apps/methods.h"

#include <algorithm>

#include "apps/options.h"
#include "nn/init.h"
#include "nn/resnet.h"
#include "ssl/moco.h"
#include "ssl/simclr.h"
#include "ssl/supcon.h"
#include "ssl/supervised.h"
#include "ssl/swav.h"

namespace facet {
namespace {

constexpr int64_t kLargestQueue = 65536;  // He et al. 2020
constexpr int kSmall = 64;                // pixels a side of pictures without room for a blur

struct Method {
  const char* name;
  double temperature;
  bool labels;
};
constexpr Method kMethods[] = {
    {"simclr", 0.1, false},    {"moco", 0.2, false},  {"swav", 0.1, false},
    {"supervised", 0.0, true}, {"supcon", 0.1, true}, {"ce+selfsupcon", 0.07, true},
};

const Method& method_of(const std::string& name) {
  const auto* found = std::find_if(std::begin(kMethods), std::end(kMethods),
                                   [&](const Method& m) { return name == m.name; });
  if (found == std::end(kMethods)) throw UsageError("unknown method " + name);
  return *found;
}

MocoOptions moco_options(const MethodOptions& method, int64_t samples, int64_t batch_size,
                         uint64_t seed) {
  // As many whole batches as there are samples: more would hold samples twice.
  const int64_t fitting = std::min(kLargestQueue, samples) / batch_size * batch_size;
  return {.temperature = method.resolved_temperature(),
          .queue = method.queue >= 0 ? method.queue : std::max(fitting, batch_size),
          .momentum = method.key_momentum,
          .projection_dim = method.projection_dim,
          .splits = static_cast<int>(method.norm_splits),
          .seed = seed};
}

// Jitter of strength `s` times (.8, .8, .8, .2), the greying, and on larger pictures the blur. Grey
// pictures have no colour to change: brightness and contrast alone, at full strength.
std::vector<PipelineStep> colour_steps(double s, int size, bool grey) {
  if (grey) return {color_jitter(.8, .8, 0, 0, .8)};
  std::vector<PipelineStep> steps = {color_jitter(.8 * s, .8 * s, .8 * s, .2 * s, .8),
                                     random_gray(.2)};
  if (size > kSmall) steps.push_back(random_blur(.5, .1, 2));
  return steps;
}

Pipeline crop_of(int size, const Normalization& n, double low, double high, Filter filter,
                 std::vector<PipelineStep> colours) {
  std::vector<PipelineStep> steps = {random_resized_crop(size, low, high, filter), random_flip()};
  steps.insert(steps.end(), colours.begin(), colours.end());
  return {size, n, std::move(steps)};
}

}  // namespace

void MethodOptions::add_to(Options& options) {
  options.choice("--method", method, method_names(), "How to train");
  options.add("--temperature", temperature, "Of similarities (0: the method's own)");
  options.add("--projection-dim", projection_dim, "Outputs of the projection head");
  options.add("--smoothing", smoothing, "Supervised: label smoothing");
  options.add("--queue", queue, "MoCo: remembered keys; SwAV: embeddings (-1: the method's own)");
  options.add("--key-momentum", key_momentum, "MoCo: of the key network");
  options.add("--norm-splits", norm_splits, "MoCo: parts of a batch with batch norms of their own");
  options.add("--prototypes", prototypes, "SwAV: clusters");
  options.add("--freeze-steps", freeze_steps, "SwAV: steps before the prototypes train");
  options.add("--queue-from", queue_from, "SwAV: step from which the queue is used");
  options.add("--epsilon", epsilon, "SwAV: smoothness of the assignments");
  options.add("--local-crops", local_crops, "SwAV: small crops beside the two large ones");
  options.add("--local-size", local_size, "SwAV: their pixels a side (0: 3/7 of the image size)");
}

double MethodOptions::resolved_temperature() const {
  return temperature > 0 ? temperature : method_of(method).temperature;
}

const std::vector<std::string>& method_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const Method& m : kMethods) list.emplace_back(m.name);
    return list;
  }();
  return names;
}

bool uses_labels(const std::string& method) {
  return method_of(method).labels;
}

std::unique_ptr<Objective> make_objective(const MethodOptions& method,
                                          const NetworkOptions& network, int64_t classes,
                                          int64_t samples, int64_t batch_size, uint64_t seed) {
  if (!(method.temperature >= 0) || !(method.epsilon > 0) || method.projection_dim < 1)
    throw UsageError(
        fmt::format("--temperature, --epsilon and --projection-dim: expected positive numbers, got "
                    "{}, {} and {}",
                    method.temperature, method.epsilon, method.projection_dim));
  if (!(method.key_momentum >= 0 && method.key_momentum <= 1))
    throw UsageError(fmt::format("--key-momentum: expected 0 to 1, got {}", method.key_momentum));
  const auto encoder = [&] { return std::make_unique<ResNet>(network.resolve()); };
  const double temperature = method.resolved_temperature();
  std::unique_ptr<Objective> objective;
  if (method.method == "simclr")
    objective = std::make_unique<Simclr>(
        encoder(),
        SimclrOptions{.temperature = temperature, .projection_dim = method.projection_dim});
  else if (method.method == "moco")
    objective = std::make_unique<Moco>(encoder(), encoder(),
                                       moco_options(method, samples, batch_size, seed));
  else if (method.method == "swav")
    objective =
        std::make_unique<Swav>(encoder(), SwavOptions{.temperature = temperature,
                                                      .epsilon = method.epsilon,
                                                      .prototypes = method.prototypes,
                                                      .projection_dim = method.projection_dim,
                                                      .freeze_steps = method.freeze_steps,
                                                      .queue = std::max<int64_t>(method.queue, 0),
                                                      .queue_from = method.queue_from});
  else if (method.method == "supcon")
    objective = std::make_unique<Supcon>(
        encoder(), SupconOptions{.temperature = temperature, .base_temperature = temperature},
        method.projection_dim);
  else if (method.method == "ce+selfsupcon")
    objective = std::make_unique<CeSelfSupcon>(
        encoder(), encoder(), classes,
        HybridOptions{.moco = moco_options(method, samples, batch_size, seed)});
  else
    objective = std::make_unique<Supervised>(encoder(), classes, method.smoothing);
  initialize(*objective, seed);
  objective->begin(seed);
  objective->check_batch(batch_size);
  return objective;
}

std::vector<Pipeline> training_views(const MethodOptions& method, int size, const Normalization& n,
                                     bool grey, double min_area) {
  const bool small = size <= kSmall;
  const auto area = [&](double usual) { return min_area > 0 ? min_area : usual; };
  if (method.method == "supervised")
    return {supervised_pipeline(size, n, area(small ? 0.5 : 0.08))};
  if (method.method == "simclr") {
    const double low = area(grey ? 0.3 : 0.08);
    const Pipeline view = grey    ? simclr_gray_pipeline(size, n, low)
                          : small ? simclr_small_pipeline(size, n, low)
                                  : simclr_pipeline(size, n, low);
    return {view, view};
  }
  if (method.method == "swav") {
    // Large crops above the area where small ones end.
    const double border = small ? 0.3 : 0.14;
    const std::vector<PipelineStep> colours = colour_steps(small ? .5 : 1, size, grey);
    const Pipeline large = crop_of(size, n, area(border), 1, Filter::bilinear, colours);
    std::vector<Pipeline> views = {large, large};
    const int local = method.local_size > 0 ? static_cast<int>(method.local_size) : size * 3 / 7;
    for (int64_t i = 0; i < method.local_crops; ++i)
      views.push_back(crop_of(local, n, .05, border, Filter::bilinear, colours));
    return views;
  }
  // MoCo v2, SupCon (which does not blur) and CE + SelfSupCon
  std::vector<PipelineStep> colours = colour_steps(.5, size, grey);
  if (method.method == "supcon" && !small && !grey) colours.pop_back();
  const Pipeline view =
      crop_of(size, n, area(grey ? 0.3 : 0.2), 1, Filter::bilinear, std::move(colours));
  return {view, view};
}

}  // namespace facet
