#include "apps/weight_average.h"

#include <algorithm>

namespace facet {
namespace {

constexpr const char* kEncoderUpdates = "updates.encoder";
constexpr const char* kRestUpdates = "updates.rest";

std::vector<NamedTensor> part_of(const std::vector<NamedTensor>& all, bool encoder) {
  std::vector<NamedTensor> part;
  for (const NamedTensor& t : all)
    if (t.name.starts_with("encoder.") == encoder && !t.name.starts_with("updates."))
      part.push_back(t);
  return part;
}

}  // namespace

WeightAverage::WeightAverage(Module& module, Options options)
    : module_(module),
      options_(std::move(options)),
      encoder_(part_of(facet::state(module), true), options_.decay, options_.warmup),
      rest_(part_of(facet::state(module), false), options_.decay, options_.warmup) {}

void WeightAverage::update(int64_t step) {
  if (!options_.encoder_due || options_.encoder_due(step)) encoder_.update();
  rest_.update();
}

std::vector<NamedTensor> WeightAverage::state() const {
  std::vector<NamedTensor> values = encoder_.averages();
  values.insert(values.end(), rest_.averages().begin(), rest_.averages().end());
  values.push_back({kEncoderUpdates, Tensor::from<int64_t>({encoder_.updates()})});
  values.push_back({kRestUpdates, Tensor::from<int64_t>({rest_.updates()})});
  return values;
}

void WeightAverage::load(const std::vector<NamedTensor>& values) {
  const auto restore = [&](Ema& ema, bool encoder, const char* updates) {
    // In the order of the averages: a file has one of its own.
    std::vector<NamedTensor> given = part_of(values, encoder), ordered;
    const auto take = [&](const std::vector<NamedTensor>& from, const std::string& name) {
      const auto found = std::ranges::find(from, name, &NamedTensor::name);
      if (found == from.end()) throw FileError("the average of the weights has no '{}'", name);
      return *found;
    };
    for (const NamedTensor& average : ema.averages()) ordered.push_back(take(given, average.name));
    ema.restore(ordered, take(values, updates).value.to_vector<int64_t>()[0]);
  };
  restore(encoder_, true, kEncoderUpdates);
  restore(rest_, false, kRestUpdates);
}

void WeightAverage::with_averages(const std::function<void()>& f) {
  std::vector<NamedTensor> own, averages = encoder_.averages();
  averages.insert(averages.end(), rest_.averages().begin(), rest_.averages().end());
  for (const auto& [name, value] : facet::state(module_)) own.push_back({name, value.clone()});
  load_state(module_, averages);
  try {
    f();
  } catch (...) {
    load_state(module_, own);
    throw;
  }
  load_state(module_, own);
}

}  // namespace facet
