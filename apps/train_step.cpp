#include "apps/train_step.h"

#include "apps/log.h"
#if defined(FACET_CUDA)
#include "cuda/runtime.h"
#endif

namespace facet {
namespace {

// On the device, where views that are only planned are made, and in the precision asked for.
Batch prepared(const Batch& given, Objective& objective, int64_t step, const StepOptions& options) {
  Batch batch = given;
  objective.prepare(batch, step);
  RandomKey key =
      random_key(options.seed, RandomPurpose::drop_path).child(static_cast<uint64_t>(step));
  if (objective.comm().rank() > 0) key = key.child(static_cast<uint64_t>(objective.comm().rank()));
  set_random_key(objective, key);
  Batch moved = batch.to(options.device);
  for (Tensor& view : moved.views) view = view.cast(options.precision);
  return moved;
}

bool same_shapes(const Batch& a, const Batch& b) {
  return a.labels.shape() == b.labels.shape() &&
         std::equal(a.views.begin(), a.views.end(), b.views.begin(), b.views.end(),
                    [](const Tensor& x, const Tensor& y) { return x.shape() == y.shape(); });
}

}  // namespace

#if defined(FACET_CUDA)

struct TrainStep::Recording {
  explicit Recording(int device) : graph(device) {}

  // What host code counted while it was recorded is counted again by every replay.
  struct Counter {
    Tensor value;
    int64_t before;
    int64_t more = 0;
  };

  Batch inputs;
  Tensor loss;
  std::vector<std::pair<Variable, Tensor>> gradients;
  std::vector<Counter> counters;
  cuda::Graph graph;  // the last, so that its memory goes back after the tensors
};

TrainStep::~TrainStep() = default;

bool TrainStep::can_record() const {
  return options_.graph && warm_ && !options_.device.is_cpu() && objective_.replayable();
}

void TrainStep::record(const Batch& batch, int64_t step) {
  optimizer_.clear_grads();
  recording_.reset();  // its memory is for the next one
  auto next = std::make_unique<Recording>(options_.device.index);
  next->inputs = batch;
  for (Tensor& view : next->inputs.views) view = view.clone();
  for (Tensor& tensor : next->inputs.extra) tensor = tensor.clone();
  next->inputs.labels = next->inputs.labels.clone();
  for (const NamedTensor& buffer : buffers(objective_))
    if (buffer.value.dtype() == DType::i64 && buffer.value.device().is_cpu())
      next->counters.push_back({buffer.value, *buffer.value.data<int64_t>()});
  try {
    next->graph.record([&] { next->loss = objective_.gradients(next->inputs, step); });
  } catch (const Error& e) {
    log_info("steps are launched one by one: {}", e.what());
    options_.graph = false;
  }
  for (Recording::Counter& counter : next->counters) {
    int64_t& count = *counter.value.data<int64_t>();
    counter.more = count - counter.before;
    count = counter.before;
  }
  if (!options_.graph) return;
  for (const NamedParameter& p : parameters(objective_))
    if (p.value.grad().defined()) next->gradients.emplace_back(p.value, p.value.grad());
  recording_ = std::move(next);
}

double TrainStep::operator()(const Batch& given, double lr, int64_t step) {
  const Batch batch = prepared(given, objective_, step, options_);
  replayed_ = false;
  if (can_record() && (!recording_ || !same_shapes(recording_->inputs, batch))) record(batch, step);
  if (!can_record() || !recording_) {
    warm_ = true;  // the optimiser's state and the libraries' plans exist from now on
    return objective_.train_step(batch, optimizer_, lr, step, options_.clip);
  }
  for (size_t v = 0; v < batch.views.size(); ++v) recording_->inputs.views[v].copy_(batch.views[v]);
  for (size_t i = 0; i < batch.extra.size(); ++i) recording_->inputs.extra[i].copy_(batch.extra[i]);
  recording_->inputs.labels.copy_(batch.labels);
  recording_->graph.replay();
  replayed_ = true;
  for (auto& [parameter, gradient] : recording_->gradients) parameter.grad() = gradient;
  for (Recording::Counter& counter : recording_->counters)
    *counter.value.data<int64_t>() += counter.more;
  const double loss = Objective::check_finite(recording_->loss, optimizer_, step + 1);
  optimizer_.step(lr, step + 1, options_.clip);
  objective_.after_step(step);
  return loss;
}

#else

struct TrainStep::Recording {};
TrainStep::~TrainStep() = default;

double TrainStep::operator()(const Batch& batch, double lr, int64_t step) {
  return objective_.train_step(prepared(batch, objective_, step, options_), optimizer_, lr, step,
                               options_.clip);
}

#endif

TrainStep::TrainStep(Objective& objective, Optimizer& optimizer, const StepOptions& options)
    : objective_(objective), optimizer_(optimizer), options_(options) {
  // What networks draw changes from step to step, on the host. Collectives are not recorded.
  options_.graph =
      options.graph && !draws_random_numbers(objective) && objective.comm().size() == 1;
}

bool TrainStep::replays() const {
  return replayed_;
}

}  // namespace facet
