// A run that stops after every single step, each time in new objects, equals one that never
// stopped, bit by bit: every method, optimiser and kind of injection.
#include <array>
#include <atomic>
#include <limits>
#include <map>
#include <mutex>

#include "apps/methods.h"
#include "apps/trainer.h"
#include "data/loader.h"
#include "nn/init.h"
#include "ssl/label_injection.h"
#include "tensor/parallel.h"
#include "tests/broken.h"
#include "tests/folder.h"

namespace facet {
namespace {

struct Case {
  std::string name;
  MethodOptions method{};
  NetworkOptions network{.arch = "resnet18", .width = 4, .image_size = 16};
  OptimizerOptions optimizer{.algorithm = Algorithm::sgd, .nesterov = true};
  std::optional<InjectionOptions> injection{};
  bool average = false;
  bool bad = false;  // some samples cannot be decoded and are skipped
  int64_t parts = 1;
  int64_t steps = 10;  // of 4 an epoch
};

NetworkOptions small_vit() {
  return {.arch = "vit_tiny",
          .width = 16,
          .image_size = 16,
          .patch_size = 4,
          .depth = 2,
          .heads = 2,
          .drop_path = .1};
}

std::vector<Case> cases() {
  const OptimizerOptions adamw{.algorithm = Algorithm::adamw}, lars{.algorithm = Algorithm::lars};
  std::vector<Case> list = {
      {.name = "simclr", .method = {.method = "simclr"}, .optimizer = lars},
      {.name = "skips", .method = {.method = "simclr"}, .bad = true},
      {.name = "moco", .method = {.method = "moco", .queue = 48, .norm_splits = 2}},
      {.name = "swav",
       .method = {.method = "swav",
                  .queue = 32,
                  .swav = {.prototypes = 8, .freeze_steps = 3, .queue_from = 5}}},
      {.name = "dino",
       .method = {.method = "dino",
                  .dino = {.out = 16,
                           .hidden = 16,
                           .bottleneck = 8,
                           .warmup_teacher_temperature = .02,
                           .temperature_epochs = 2}},
       .network = small_vit(),
       .optimizer = adamw},
      {.name = "mae",
       .method = {.method = "mae",
                  .mae = {.decoder_width = 16, .decoder_depth = 1, .decoder_heads = 2}},
       .network = small_vit(),
       .optimizer = adamw},
      {.name = "supcon", .method = {.method = "supcon"}},
      {.name = "ce+selfsupcon",
       .method = {.method = "ce+selfsupcon", .queue = 48, .norm_splits = 2}},
      {.name = "supervised", .method = {.method = "supervised"}, .average = true, .steps = 40},
      {.name = "mixed",
       .method = {.method = "supervised",
                  .labels = {.smoothing = .1,
                             .mixup = .8,
                             .cutmix = 1,
                             .erase_probability = .5,
                             .policy = "rand-m9-mstd0.5-inc1"}},
       .network = small_vit(),
       .optimizer = adamw,
       .average = true,
       .parts = 4},
  };
  for (const int64_t cycle : {1, 3})
    for (const auto& optimizer : {OptimizerOptions{}, adamw, lars})
      list.push_back({.name = fmt::format("inject{}{}", cycle, name(optimizer.algorithm)),
                      .optimizer = optimizer,
                      .injection = InjectionOptions{.cycle = cycle},
                      .average = true});
  list.push_back({.name = "accumulates",
                  .injection = InjectionOptions{.cycle = 3,
                                                .order = InjectionOptions::Order::sequential,
                                                .skipped = SkippedStep::accumulate_mean,
                                                .phase = InjectionOptions::Phase::per_epoch,
                                                .steps_per_epoch = 4}});
  list.push_back({.name = "coasts",
                  .injection = InjectionOptions{.cycle = 3, .skipped = SkippedStep::zero_grad}});
  return list;
}

class ResumeEverywhere : public test::FolderTest, public testing::WithParamInterface<Case> {
 protected:
  void SetUp() override { set_num_threads(1); }

  using Bytes = std::map<std::string, std::string>;

  // Everything anew, from where the folder left off to `until`; what the run is then, on all ranks.
  Bytes run(const std::string& folder, int64_t until, int workers, int ranks = 1) {
    RunFolder run_folder(folder_ / folder, "");
    std::atomic<int64_t> stop_at = std::numeric_limits<int64_t>::max();
    std::mutex mutex;
    Bytes bytes;
    testing::internal::CaptureStderr();
    const auto body = [&](Comm& comm) {
      std::string samples;
      const Bytes mine = work(comm, run_folder, until, workers, stop_at, samples);
      const std::lock_guard lock(mutex);
      // Running statistics are the first rank's: nobody reads those of others.
      for (const auto& [name, value] : mine)
        if (comm.rank() == 0 || name.find(".running_") == std::string::npos)
          bytes[fmt::format("{} {}", comm.rank(), name)] = value;
      samples_[fmt::format("{} {}", folder, comm.rank())] += samples;
    };
    if (ranks == 1)
      body(single_rank());
    else
      run_ranks(ranks, body);
    testing::internal::GetCapturedStderr();
    return bytes;
  }

  Bytes work(Comm& comm, RunFolder& run_folder, int64_t until, int workers,
             std::atomic<int64_t>& stop_at, std::string& samples) {
    const Case& c = GetParam();
    const int ranks = comm.size();
    const auto dataset = std::make_shared<test::BrokenDataset>(
        open_dataset("shapes:train=64,size=16", Split::train));
    dataset->before = [&](int64_t index) {
      if (c.bad && index % 9 == 4) throw FileError("damaged");
    };
    constexpr int64_t kBatch = 16;
    std::unique_ptr<Objective> objective;
    std::vector<Pipeline> views;
    if (c.injection) {
      objective = std::make_unique<LabelInjection>(make_encoder(c.network.resolve()),
                                                   dataset->num_classes(), *c.injection);
      initialize(*objective, 1);
      views = {supervised_pipeline(16, kHalfNormalization, .5)};
    } else {
      objective = make_objective(c.method, c.network,
                                 {.classes = dataset->num_classes(),
                                  .samples = dataset->size(),
                                  .batch_size = kBatch,
                                  .epochs = 3,
                                  .ranks = ranks},
                                 1);
      if (shares_norms(c.method.method)) set_norm_comm(*objective, comm);
      views = training_views(c.method, c.network, kHalfNormalization, false, 0);
    }
    objective->set_comm(comm);
    objective->set_parts(c.parts);
    Optimizer optimizer(c.optimizer, objective->groups(1e-3));
    std::optional<WeightAverage> average;
    if (c.average) average.emplace(*objective, WeightAverage::Options{.decay = .9, .warmup = true});
    DataLoader loader(dataset, {.views = views,
                                .batch_size = kBatch / ranks,
                                .workers = workers,
                                .rank = comm.rank(),
                                .world = ranks,
                                .on_bad_sample = c.bad ? OnBadSample::skip : OnBadSample::fail});
    TrainOptions options;
    options.title = c.name;
    options.total_steps = c.steps;
    options.steps_per_epoch = loader.batches();
    options.lr = [](int64_t step) { return .02 / static_cast<double>(step + 1); };
    int64_t next = -1;
    options.batch = [&](int64_t step) {
      if (step != next || step % loader.batches() == 0)
        loader.start(step / loader.batches(), step % loader.batches());
      next = step + 1;
      Batch batch = *loader.next();
      if (step == poisoned_) batch.views[0].fill_(NAN);
      for (const BadSample& bad : batch.bad) samples += fmt::format(" -{}", bad.index);
      samples += fmt::format("{}:", step);
      for (const int64_t i : batch.indices.to_vector<int64_t>()) samples += fmt::format(" {}", i);
      return batch;
    };
    options.log_every = 1;
    options.max_skipped_steps = poisoned_ >= 0;
    options.stop = [&](int64_t step) { return step == until - (ranks > 1); };  // said a step ahead
    options.stop_at = &stop_at;
    options.average = average ? &*average : nullptr;
    options.progress = {.every_steps = 1000, .every_seconds = 1000};
    try {
      const TrainResult result = train(*objective, optimizer, run_folder, options);
      if (ranks == 1) {
        EXPECT_EQ(result.bad_samples, c.bad ? 7 : 0);
      }
      EXPECT_EQ(until, c.steps);
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), ExitCode::interrupted) << e.what();
      EXPECT_LT(until, c.steps);
    }
    objective->set_comm(single_rank());
    Bytes bytes;
    const auto add = [&](const char* prefix, const std::vector<NamedTensor>& tensors) {
      for (const auto& [name, value] : tensors)
        bytes[prefix + name] = {static_cast<const char*>(value.raw()), value.bytes()};
    };
    add("model.", state(*objective));
    add("optimizer.", optimizer.state());
    if (average) add("average.", average->state());
    return bytes;
  }

  std::map<std::string, std::string> samples_;
  int64_t poisoned_ = -1;  // a step whose batch is not finite
};

TEST_P(ResumeEverywhere, ASkippedStepLeavesEverythingAsItWas) {
  for (const int ranks : {1, 2}) {
    poisoned_ = -1;
    const Bytes before = run(fmt::format("before{}", ranks), 5, 0, ranks);
    poisoned_ = 5;
    const Bytes after = run(fmt::format("skipped{}", ranks), 6, 0, ranks);
    ASSERT_EQ(after.size(), before.size());
    for (const auto& [name, value] : before)
      EXPECT_TRUE(after.at(name) == value) << ranks << "R " << name;
  }
}

TEST_P(ResumeEverywhere, IsExactOnOneRankAndOnTwo) {
  for (const int ranks : {1, 2}) {
    const std::string whole = fmt::format("straight{}", ranks), parts = "c" + whole;
    const Bytes straight = run(whole, GetParam().steps, 0, ranks);
    Bytes chained;
    for (int64_t step = 1; step <= GetParam().steps; ++step)
      chained = run(parts, step, std::array{4, 0, 1}[static_cast<size_t>(step % 3)], ranks);
    ASSERT_EQ(chained.size(), straight.size());
    for (const auto& [name, value] : straight) EXPECT_TRUE(chained.at(name) == value) << name;
    for (int rank = 0; rank < ranks; ++rank)
      EXPECT_EQ(samples_[fmt::format("{} {}", parts, rank)],
                samples_[fmt::format("{} {}", whole, rank)]);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ResumeEverywhere, testing::ValuesIn(cases()), [](const auto& test) {
  std::string name = test.param.name;
  std::erase(name, '+');
  return name;
});

}  // namespace
}  // namespace facet
