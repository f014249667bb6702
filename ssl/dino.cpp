#include "ssl/dino.h"

#include <algorithm>
#include <cmath>

#include "optim/schedule.h"

namespace facet {

Variable dino_loss(const Variable& student, const Tensor& teacher, const Tensor& center,
                   double student_temperature, double teacher_temperature) {
  const Tensor p =
      ops::softmax(ops::affine(1.0 / teacher_temperature, ops::sub(teacher, center), 0.0));
  const int64_t samples = teacher.dim(0) / 2;
  return swapped_prediction(student, {p.narrow(0, samples), p.narrow(samples, samples)},
                            student_temperature);
}

static DinoHeadOptions head_options(int64_t features, const DinoOptions& options) {
  return {.in = features,
          .hidden = options.hidden,
          .bottleneck = options.bottleneck,
          .out = options.out,
          .norms = options.head_norms,
          .norm_last_layer = options.norm_last_layer};
}

Dino::Dino(std::unique_ptr<Encoder> student, std::unique_ptr<Encoder> teacher,
           const DinoOptions& options)
    : options_(options),
      student_(std::move(student)),
      teacher_(std::move(teacher)),
      student_head_(head_options(student_->feature_dim(), options)),
      teacher_head_(head_options(student_->feature_dim(), options)),
      center_(Tensor::zeros({1, options.out})) {
  if (options.out < 2 || options.hidden < 1 || options.bottleneck < 1)
    throw UsageError("DINO: expected a head with two outputs or more, got {}", options.out);
  for (Module* module :
       {static_cast<Module*>(teacher_.get()), static_cast<Module*>(&teacher_head_)})
    set_requires_grad(*module, false);
}

void Dino::begin(uint64_t) {
  copy_state(*student_, *teacher_);
  copy_state(student_head_, teacher_head_);
  center_.zero_();
}

double Dino::teacher_temperature(int64_t step) const {
  const int64_t epoch = step / options_.steps_per_epoch, warm = options_.temperature_epochs;
  if (epoch >= warm) return options_.teacher_temperature;
  const double share = warm > 1 ? static_cast<double>(epoch) / static_cast<double>(warm - 1) : 0.0;
  return options_.warmup_teacher_temperature +
         share * (options_.teacher_temperature - options_.warmup_teacher_temperature);
}

Variable Dino::loss(const Batch& batch, int64_t step) {
  const std::span<const Tensor> crops(batch.views);
  FACET_CHECK(crops.size() >= 2 && crops[0].shape() == crops[1].shape(), name(),
              "expected two global crops of one size first, got {} crops", crops.size());
  const auto wide = [](const Variable& v) { return cast(v, acc_dtype(v.dtype())); };
  Tensor teacher;
  {
    const NoGrad none;
    const Variable features = crop_features(*teacher_, crops.first(2));
    last_embeddings_ = features.value();
    teacher = wide(teacher_head_(features)).value();
  }
  const Variable student = wide(student_head_(crop_features(*student_, crops)));
  teacher_mean_ = ops::reduce(ReduceOp::mean, teacher, 0);
  comm_->all_reduce(teacher_mean_);
  return dino_loss(student, teacher, center_.cast(teacher.dtype()), options_.student_temperature,
                   teacher_temperature(step));
}

void Dino::update(Optimizer& optimizer, double lr, int64_t step, double clip) {
  if (clip > 0) {
    VariableList all;
    for (const ParamGroup& group : optimizer.groups())
      for (const NamedParameter& p : group.parameters) all.push_back(p.value);
    clip_grad_norm_each(all, clip);
  }
  // No step, no decay, no change of the optimiser's state.
  if (step / options_.steps_per_epoch < options_.freeze_epochs)
    for (Variable& parameter : student_head_.last_layer()) parameter.clear_grad();
  Objective::update(optimizer, lr, step, 0);
}

void Dino::after_step(int64_t step) {
  const double share =
      static_cast<double>(step) / static_cast<double>(std::max<int64_t>(options_.total_steps, 1));
  const double momentum = schedule::cosine(options_.momentum, 1.0, std::min(share, 1.0));
  average_parameters(*teacher_, *student_, momentum);
  average_parameters(teacher_head_, student_head_, momentum);

  const double m = options_.center_momentum;
  const Tensor mean = teacher_mean_.reshape(center_.shape()).cast(center_.dtype());
  ops::scale_(center_, m);
  ops::add_(center_, mean, (1.0 - m) / comm_->size());
}

double Dino::collapse_loss(int64_t) const {
  return std::log(static_cast<double>(options_.out));
}

void Dino::visit(ModuleVisitor& v) {
  v("teacher", *teacher_);
  v("teacher_head", teacher_head_);
  v("student", *student_);
  v("student_head", student_head_);
  v("center", center_);
}

}  // namespace facet
