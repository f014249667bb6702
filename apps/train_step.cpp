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

  Kind kind;
  Batch inputs;
  Tensor loss;
  TensorList left;
  std::vector<std::pair<Variable, Tensor>> gradients;
  std::vector<Counter> counters;
  cuda::Graph graph;  // the last, so that its memory goes back after the tensors
};

// All that the recorded part reads of a batch.
static std::vector<Tensor*> tensors_of(Batch& batch) {
  std::vector<Tensor*> all = {&batch.labels, &batch.targets};
  for (TensorList* list : {&batch.views, &batch.extra})
    for (Tensor& tensor : *list) all.push_back(&tensor);
  std::erase_if(all, [](const Tensor* tensor) { return !tensor->defined(); });
  return all;
}

void TrainStep::record(const Batch& batch, const Kind& kind, int64_t step) {
  optimizer_.clear_grads();
  recording_.reset();  // its memory is for the next one
  auto next = std::make_unique<Recording>(options_.device.index);
  next->kind = kind;
  next->inputs = batch;
  for (Tensor* tensor : tensors_of(next->inputs)) *tensor = tensor->clone();
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
  for (const Tensor* tensor : objective_.left()) next->left.push_back(*tensor);
  for (const NamedParameter& p : parameters(objective_))
    if (p.value.grad().defined()) next->gradients.emplace_back(p.value, p.value.grad());
  recording_ = std::move(next);
}

double TrainStep::operator()(const Batch& given, double lr, int64_t step) {
  const Batch batch = prepared(given, objective_, step, options_);
  const std::optional<double> key = objective_.replay_key(step);
  replayed_ = false;
  if (!options_.graph || options_.device.is_cpu() || !key)
    return objective_.train_step(batch, optimizer_, lr, step, options_.clip);
  Batch whole = objective_.mixed(batch, step);
  const std::vector<Tensor*> tensors = tensors_of(whole);
  Kind kind{*key, {}};
  for (const Tensor* tensor : tensors) kind.shapes.push_back(tensor->shape());
  const auto fits = [&] { return recording_ && recording_->kind == kind; };
  if (last_ && *last_ == kind && !fits()) record(whole, kind, step);
  last_ = kind;
  replayed_ = fits();
  if (!replayed_) return objective_.train_step(batch, optimizer_, lr, step, options_.clip);
  const std::vector<Tensor*> inputs = tensors_of(recording_->inputs);
  for (size_t i = 0; i < inputs.size(); ++i) inputs[i]->copy_(*tensors[i]);
  recording_->graph.replay();
  const std::vector<Tensor*> left = objective_.left();
  for (size_t i = 0; i < left.size(); ++i) *left[i] = recording_->left[i];
  optimizer_.clear_grads();
  for (auto& [parameter, gradient] : recording_->gradients) parameter.grad() = gradient;
  for (Recording::Counter& counter : recording_->counters)
    *counter.value.data<int64_t>() += counter.more;
  const double loss = Objective::check_finite(recording_->loss, optimizer_, step + 1);
  objective_.update(optimizer_, lr, step, options_.clip);
  return loss;
}

#else

struct TrainStep::Recording {};

double TrainStep::operator()(const Batch& batch, double lr, int64_t step) {
  return objective_.train_step(prepared(batch, objective_, step, options_), optimizer_, lr, step,
                               options_.clip);
}

#endif

TrainStep::~TrainStep() = default;

TrainStep::TrainStep(Objective& objective, Optimizer& optimizer, const StepOptions& options)
    : objective_(objective), optimizer_(optimizer), options_(options) {
  options_.graph = options.graph && objective.comm().size() == 1;  // collectives are not recorded
}

}  // namespace facet
