// DINO: golden values of the loss and the head, the teacher, the centre, the schedules.
#include "ssl/dino.h"

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "nn/init.h"
#include "nn/vit.h"
#include "tensor/text.h"
#include "tests/fill.h"
#include "tests/gradcheck.h"

namespace facet {
namespace {

using namespace test;

TEST(DinoLoss, Golden) {
  for (const Setting& at : settings()) {
    const Variable student(at(wave({8, 6}, .5)), true);
    const Tensor teacher = at(wave({4, 6}, 1.5));
    const Tensor center = at(ops::affine(.1, wave({1, 6}, 2.5), 0.0));
    const auto f = [&] { return dino_loss(student, teacher, center, .1, .04); };
    const Variable loss = f();
    at.near(loss.value(), {7.34771416209}, 1e-10);
    backward(loss);
    at.near(student.grad(), {.003649896787, .008558014716, .0746367496, .5753282822}, 1e-10);
    EXPECT_EQ(at.dtype == DType::f64 ? gradcheck(f, {student}) : "", "");
  }
}

TEST(DinoLoss, Properties) {
  const Variable student(hashed("student", {10, 7}));
  const Tensor teacher = hashed("teacher", {4, 7}), zero = Tensor::zeros({1, 7}, DType::f64);
  const double loss = dino_loss(student, teacher, zero, .1, .04).item();
  // A constant on the student's logits changes nothing, nor one on the teacher's and the centre.
  EXPECT_NEAR(dino_loss(affine(1, student, 3), teacher, zero, .1, .04).item(), loss, 1e-9);
  EXPECT_NEAR(
      dino_loss(student, ops::affine(1, teacher, 2), ops::affine(1, zero, 2), .1, .04).item(), loss,
      1e-9);
  // Equal logits: ln K. Two views are enough.
  const Variable equal(Tensor::zeros({4, 7}, DType::f64));
  EXPECT_NEAR(dino_loss(equal, Tensor::zeros({4, 7}, DType::f64), zero, .1, .04).item(),
              std::log(7.0), 1e-12);
}

TEST(DinoHead, Golden) {
  DinoHead head({.in = 64, .hidden = 32, .bottleneck = 16, .out = 50});
  for (const Setting& at : settings()) {
    fill(head, at.dtype);
    to_device(head, at.device);
    const auto expect = [&] {
      const Tensor out = head(Variable(at(hashed("feat", {3, 64})))).value();
      at.near(out, {.0175746975, -.222687782, -.356269976, .0707930665}, 5e-9);
      at.near(ops::sqrt(ops::reduce(ReduceOp::sum_squares, out)), {3.0854225777}, 1e-9);
    };
    expect();
    // The last layer takes unit rows.
    Tensor rows = tensor_of(head, "last_layer.weight_v").narrow(1, 20);
    ops::scale_(rows, 3.0);
    expect();
  }
  EXPECT_EQ(names_of(state(head)),
            (std::vector<std::string>{"mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias",
                                      "mlp.4.weight", "mlp.4.bias", "last_layer.weight_g",
                                      "last_layer.weight_v"}));
}

TEST(DinoHead, NormsTakeTheOfficialPlaces) {
  DinoHead head(
      {.in = 8, .hidden = 8, .bottleneck = 4, .out = 6, .norms = true, .norm_last_layer = false});
  initialize(head, 1);
  std::string names;
  for (const NamedParameter& p : parameters(head)) names += p.name + " ";
  EXPECT_EQ(names,
            "mlp.0.weight mlp.0.bias mlp.1.weight mlp.1.bias mlp.3.weight mlp.3.bias mlp.4.weight "
            "mlp.4.bias mlp.6.weight mlp.6.bias last_layer.weight_g last_layer.weight_v ");
  for (const NamedParameter& p : parameters(head)) EXPECT_TRUE(p.value.requires_grad()) << p.name;
}

std::unique_ptr<Encoder> small_vit(double drop_path = 0) {
  return std::make_unique<Vit>(VitOptions{.arch = "vit_tiny",
                                          .patch = 4,
                                          .image_size = 16,
                                          .width = 24,
                                          .depth = 2,
                                          .heads = 2,
                                          .drop_path = drop_path});
}
const DinoOptions kSmall = {.out = 12, .hidden = 16, .bottleneck = 8, .total_steps = 10};

std::unique_ptr<Dino> make_dino(const DinoOptions& options = kSmall) {
  auto dino = std::make_unique<Dino>(small_vit(), small_vit(), options);
  initialize(*dino, 3);
  dino->begin(3);
  return dino;
}
Batch views(int64_t n, int64_t step = 0, DType dtype = DType::f32) {
  return hashed_batch(n, {16, 16, 8, 8, 8}, step, dtype);
}

TEST(Dino, TheCentreFollowsTheTeachersMean) {
  // Golden of section 3.1's update: c <- .9 c + .1 mean, here with a teacher that is constant.
  const auto dino = make_dino();
  Optimizer optimizer({}, dino->groups(0));
  const Tensor center = tensor_of(*dino, "center");
  std::vector<std::vector<double>> centers;
  for (int64_t step = 0; step < 2; ++step) {
    dino->train_step(views(4), optimizer, 0, step, 0);
    centers.push_back(values(center));
  }
  // The teacher stands still (learning rate 0): c_2 = .9 c_1 + c_1.
  for (size_t k = 0; k < 12; ++k) EXPECT_NEAR(centers[1][k], 1.9 * centers[0][k], 1e-6);
  for (const Setting& at : settings()) {
    Tensor c = at(ops::affine(.1, wave({1, 6}, 2.5), 0.0));
    ops::scale_(c, .9);
    ops::add_(c, ops::reduce(ReduceOp::mean, at(wave({4, 6}, 1.5)), 0).reshape({1, 6}), .1);
    at.near(c,
            {.0661619147, .06096031167, .07429432559, -.008137245981, -.08036590558, -.1259341093},
            1e-10);
  }
}

TEST(Dino, TheTeacherFollowsTheStudentAndGetsNoGradient) {
  const auto dino = make_dino();
  Optimizer optimizer({}, dino->groups(0));
  Tensor teacher = tensor_of(*dino, "teacher.blocks.0.attn.qkv.weight");
  const Tensor student = tensor_of(*dino, "student.blocks.0.attn.qkv.weight");
  EXPECT_EQ(values(teacher), values(student));
  teacher.copy_(ops::affine(1.0, teacher, 0.5));
  dino->train_step(views(4), optimizer, 0, 0, 0);
  const auto got = values(teacher), want = values(ops::affine(1.0, student, .996 * .5));
  expect_near(got, want, 1e-6);
  for (const NamedParameter& p : parameters(*dino))
    EXPECT_EQ(p.value.requires_grad() || p.value.grad().defined(),
              p.name.starts_with("student") && !p.name.ends_with("weight_g"))
        << p.name;
  for (const ParamGroup& group : dino->groups(.04))
    for (const NamedParameter& p : group.parameters) {
      EXPECT_TRUE(p.name.starts_with("student")) << p.name;
      // Class token and position embedding decay, as in the official code.
      const bool decays = !p.name.ends_with("bias") && p.value.value().rank() != 1;
      EXPECT_EQ(group.weight_decay, decays ? .04 : 0) << p.name;
    }
}

// Thrice the lengths of the last layer's rows at thrice the temperatures are the same loss.
TEST(Dino, StudentAndTeacherHaveTheLengthsOfTheLastLayersRows) {
  double losses[2];
  for (const bool longer : {false, true}) {
    DinoOptions options = kSmall;
    options.norm_last_layer = false;
    if (longer)
      for (double* t : {&options.student_temperature, &options.teacher_temperature,
                        &options.warmup_teacher_temperature})
        *t *= 3;
    const auto dino = make_dino(options);
    Tensor lengths = tensor_of(*dino, "student_head.last_layer.weight_g");
    if (longer) lengths.fill_(3.0);
    dino->begin(3);
    Optimizer optimizer({}, dino->groups(0));
    losses[longer] = dino->train_step(views(4), optimizer, 0, 0, 0);
  }
  EXPECT_NEAR(losses[1], losses[0], 1e-5);
}

TEST(Dino, TheLastLayerStandsStillInTheFirstEpoch) {
  DinoOptions options = kSmall;
  options.steps_per_epoch = 2;
  const auto dino = make_dino(options);
  Optimizer optimizer({.algorithm = Algorithm::adamw}, dino->groups(.1));
  const Tensor last = tensor_of(*dino, "student_head.last_layer.weight_v");
  const auto start = values(last);
  for (int64_t step = 0; step < 2; ++step) {
    dino->train_step(views(4), optimizer, 1e-3, step, 3.0);
    EXPECT_EQ(values(last), start);
  }
  dino->train_step(views(4), optimizer, 1e-3, 2, 3.0);
  EXPECT_NE(values(last), start);
}

TEST(Dino, TheTeachersTemperatureRisesOverItsEpochs) {
  DinoOptions options = kSmall;
  options.steps_per_epoch = 2;
  options.teacher_temperature = .07;
  options.temperature_epochs = 4;
  const auto dino = make_dino(options);
  EXPECT_NEAR(dino->teacher_temperature(0), .04, 1e-12);
  EXPECT_NEAR(dino->teacher_temperature(1), .04, 1e-12);
  EXPECT_NEAR(dino->teacher_temperature(2), .05, 1e-12);
  EXPECT_NEAR(dino->teacher_temperature(6), .07, 1e-12);
  EXPECT_NEAR(dino->teacher_temperature(100), .07, 1e-12);
}

TEST(Dino, RanksAreOne) {
  const auto run = [](int ranks) {
    std::vector<double> result;
    std::mutex mutex;
    double loss = 0;
    run_ranks(ranks, [&](Comm& comm) {
      const auto dino = make_dino();
      to_dtype(*dino, DType::f64);
      dino->set_comm(comm);
      Optimizer optimizer({}, dino->groups(1e-4));
      double sum = 0;
      for (int64_t step = 0; step < 3; ++step) {
        Batch batch = views(8, step, DType::f64);
        for (Tensor& view : batch.views)
          view = view.narrow(comm.rank() * 8 / ranks, 8 / ranks).clone();
        sum += dino->train_step(batch, optimizer, .05, step, 0);
      }
      const std::lock_guard lock(mutex);
      loss += sum / ranks;
      if (comm.rank() == 0) {
        result = values(tensor_of(*dino, "student.blocks.1.mlp.fc1.weight"));
        const auto center = values(tensor_of(*dino, "center"));
        result.insert(result.end(), center.begin(), center.end());
      }
    });
    result.push_back(loss);
    return result;
  };
  const auto one = run(1);
  for (const int ranks : {2, 4}) expect_near(run(ranks), one, 1e-12);
}

TEST(Dino, LeavesItsCollapseValue) {
  DinoOptions options = kSmall;
  options.head_norms = true;  // without them so small a network ends at ln K
  options.total_steps = 60;
  const auto dino = make_dino(options);
  Optimizer optimizer({.algorithm = Algorithm::adamw}, dino->groups(0));
  Batch batch = views(8);
  batch.views = {batch.views[0], batch.views[0]};
  double last = 0;
  for (int64_t step = 0; step < options.total_steps; ++step)
    last = dino->train_step(batch, optimizer, 1e-3, step, 0);
  EXPECT_LT(last, dino->collapse_loss(8) - 1);
  EXPECT_GT(dino->metrics()[0].value, .01);  // features are spread
}

TEST(Dino, RefusesWhatDoesNotFit) {
  const auto dino = make_dino();
  Batch batch = views(4);
  std::swap(batch.views[1], batch.views[2]);
  EXPECT_THROW(dino->loss(batch, 0), Error);
  EXPECT_THROW(make_dino({.out = 1}), UsageError);
}

}  // namespace
}  // namespace facet
