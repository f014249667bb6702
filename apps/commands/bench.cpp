// facet bench: how fast whole training steps and the diversity metrics are.

#include <algorithm>
#include <limits>
#include <optional>

#include "apps/command.h"
#include "apps/interrupt.h"
#include "apps/log.h"
#include "apps/machine.h"
#include "apps/methods.h"
#include "apps/train_step.h"
#include "metrics/diversity.h"
#include "metrics/resnet50_weights.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"

namespace facet {

double median(std::vector<double> values) {
  FACET_CHECK(!values.empty(), "median", "of nothing");
  const size_t half = values.size() / 2;
  std::sort(values.begin(), values.end());
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

namespace {

constexpr size_t kReportedLosses = 10;

struct TrainBench {
  NetworkOptions network{.arch = "resnet50", .image_size = 224};
  int64_t batch = 32, steps = 10, warmup = 2, classes = 1000, threads = 0;
  uint64_t seed = 0;
  double lr = 0.01;
  MethodOptions method{.method = "supervised"};
  std::string save_start, device = "cpu", precision = "f32";
  bool json = false, profile = false, graph = true;
};

// Random images and labels, as many views as the method takes: the peer is given the same.
Batch synthetic_batch(const TrainBench& bench) {
  const RandomKey key = random_key(bench.seed, RandomPurpose::synthetic);
  TensorList views;
  for (const Pipeline& view :
       training_views(bench.method, bench.network, kImagenetNormalization, false, 0.0))
    views.push_back(ops::random_normal({bench.batch, view.size(), view.size(), 3},
                                       key.child(views.size() * 2)));
  RandomSequence random(key.child(1));
  std::vector<int64_t> labels(static_cast<size_t>(bench.batch));
  for (int64_t& label : labels)
    label = static_cast<int64_t>(random.below(static_cast<uint64_t>(bench.classes)));
  return {views, Tensor::from(labels, {bench.batch}), {}};
}

void bench_train(const Arguments& arguments) {
  Options options("bench train",
                  "Times whole training steps (forward, backward, SGD) on random data.");
  TrainBench bench;
  bench.network.add_to(options);
  bench.method.add_to(options);
  options.add("-b,--batch-size", bench.batch, "Images a step");
  options.add("--steps", bench.steps, "Timed steps");
  options.add("--warmup-steps", bench.warmup, "Steps before them");
  options.add("--num-classes", bench.classes, "Outputs of the classifier");
  options.add("--lr", bench.lr, "Learning rate");
  options.add("--seed", bench.seed, "Of weights and data");
  options.add("--threads", bench.threads, "Threads (0: one a core)");
  options.add("--device", bench.device, "cpu, cuda or cuda:N");
  options.choice("--precision", bench.precision, {"f32", "bf16"}, "Of images and activations");
  options.flag("--graph", bench.graph, "On CUDA, record a step once and replay it");
  options.add("--save-start", bench.save_start,
              "Write the initial weights and the batch to a file");
  options.flag("--profile", bench.profile, "Time every operation (slows the steps a little)");
  options.flag("--json", bench.json, "Print JSON");
  if (!options.parse(arguments)) return;
  if (bench.batch < 1 || bench.steps < 1 || bench.warmup < 0 || bench.classes < 2)
    throw UsageError(
        "facet bench train: expected a positive --batch-size and --steps, --num-classes of at "
        "least 2");
  if (bench.threads > 0) set_num_threads(static_cast<int>(bench.threads));

  const std::unique_ptr<Objective> made =
      make_objective(bench.method, bench.network,
                     {.classes = bench.classes,
                      .samples = std::numeric_limits<int64_t>::max() / 2,
                      .batch_size = bench.batch},
                     bench.seed);
  Objective& objective = *made;
  const Device device = use_device(bench.device);
  Batch batch = synthetic_batch(bench);
  if (!bench.save_start.empty()) {
    std::vector<NamedTensor> tensors = state(objective);
    for (NamedTensor& tensor : tensors)  // the classifier under torchvision's and timm's names
      if (tensor.name.starts_with("classifier."))
        tensor.name = "encoder." + head_name(objective.encoder()) +
                      tensor.name.substr(std::string("classifier").size());
    for (size_t i = 0; i < batch.views.size(); ++i)  // (B, H, W, 3), in the file (B, 3, H, W)
      tensors.push_back({fmt::format("input{}", i), batch.views[i]});
    tensors.push_back({"labels", batch.labels});
    save_safetensors(bench.save_start, to_file_layout(tensors));
  }
  to_device(objective, device);
  batch = batch.to(device);
  ParamGroup all;
  all.parameters = parameters(objective);
  all.weight_decay = 1e-4;
  Optimizer optimizer({}, {all});

  // Operations are counted where they are launched.
  TrainStep train_step(objective, optimizer,
                       {.device = device,
                        .precision = bench.precision == "bf16" ? DType::bf16 : DType::f32,
                        .graph = bench.graph && !bench.profile});
  std::optional<Profile> profile;
  const double start_up = seconds_since_start();
  double first_step = 0.0, flops = 0.0;  // flops: of the first step, which is never a replayed one
  std::vector<double> seconds, losses;
  for (int64_t step = 0; step < bench.warmup + bench.steps; ++step) {
    if (bench.profile && step == bench.warmup) profile.emplace(device.type);
    std::optional<Profile> counted;
    if (step == 0 && bench.warmup > 0) counted.emplace(device.type);
    const Stopwatch clock;
    const double loss = train_step(batch, bench.lr, step);
    if (counted)
      for (const ProfilingBackend::Row& row : counted->rows()) flops += row.flops;
    counted.reset();
    if (step == 0) first_step = seconds_since_start();
    if (step >= bench.warmup) seconds.push_back(clock.seconds());
    if (losses.size() < kReportedLosses) losses.push_back(loss);
    stop_if_interrupted("bench stopped");
  }
  // Milliseconds a step of every operation.
  Json operations = Json::object();
  if (profile)
    for (const ProfilingBackend::Row& row : profile->rows())
      operations[row.name] = {{"calls", row.calls / bench.steps},
                              {"ms", row.seconds * 1e3 / static_cast<double>(bench.steps)},
                              {"gb_per_s", row.bytes / row.seconds * 1e-9},
                              {"tflop_per_s", row.flops / row.seconds * 1e-12}};
  profile.reset();
  const double step = median(seconds);
  const double images_per_second = static_cast<double>(bench.batch) / step;
  if (bench.json) {
    print_json({{"method", bench.method.method},
                {"arch", bench.network.arch},
                {"image_size", bench.network.image_size},
                {"batch", bench.batch},
                {"threads", num_threads()},
                {"images_per_second", images_per_second},
                {"tflop_per_step", flops * 1e-12},
                {"tflop_per_s", flops / step * 1e-12},
                {"step_seconds", step},
                {"start_up_seconds", start_up},
                {"first_step_seconds", first_step},
                {"peak_memory_mib", peak_memory_mib()},
                {"losses", losses},
                {"operations", operations}});
    return;
  }
  fmt::print(
      "{} of {} at {} pixels, batch {}, {} threads: {:.2f} images/s, {:.1f} ms a step (median of "
      "{})\n",
      bench.method.method, bench.network.arch, bench.network.image_size, bench.batch, num_threads(),
      images_per_second, step * 1e3, bench.steps);
  fmt::print(
      "first step begun {:.2f} s and done {:.2f} s after the start of the process, peak memory "
      "{:.0f} MiB\n",
      start_up, first_step, peak_memory_mib());
  if (flops > 0)
    fmt::print("{:.4g} TFLOP a step, {:.4g} TFLOP/s\n", flops * 1e-12, flops / step * 1e-12);
  fmt::print("losses: {:.6f}\n", fmt::join(losses, " "));
  for (const auto& [name, row] : operations.items())
    fmt::print("{:<28} {:>5} calls {:>9.2f} ms a step {:>8.1f} GB/s {:>7.3f} TFLOP/s\n", name,
               row["calls"].get<int64_t>(), row["ms"].get<double>(), row["gb_per_s"].get<double>(),
               row["tflop_per_s"].get<double>());
}

// The clustering of one large layer alone: cosines, linkage, diversity.
void bench_clustering(uint64_t seed, int64_t repeats, bool json) {
  const Tensor rows = ops::add(ops::random_uniform({2048, 4608}, {seed, 1}, -1.0, 1.0),
                               ops::random_uniform({1, 4608}, {seed, 2}, -1.0, 1.0));
  double best = std::numeric_limits<double>::infinity(), clustering = 0.0;
  for (int64_t i = 0; i < repeats; ++i) {
    const Stopwatch clock;
    const Tensor unit = ops::l2_normalize(rows).y;
    const std::vector<double> merges =
        ops::average_linkage(ops::matmul(unit, unit, false, true)).to_vector<double>();
    clustering = clustering_diversity(merges);
    best = std::min(best, clock.seconds());
  }
  if (json)
    print_json({{"seconds", best}, {"clustering", clustering}});
  else
    fmt::print("one layer of 2048 x 4608 in {:.3f} s: clustering diversity {:.6f}\n", best,
               clustering);
}

void bench_diversity(const Arguments& arguments) {
  Options options("bench diversity", "Times both diversities of ResNet-50-shaped weights.");
  uint64_t seed = 0;
  int64_t repeats = 3;
  bool large = false, json = false;
  options.add("--seed", seed, "Of the weights");
  options.add("--repeats", repeats, "The fastest counts");
  options.flag("--large", large, "The clustering alone of one layer of 2048 x 4608");
  options.flag("--json", json, "Print JSON");
  if (!options.parse(arguments)) return;
  if (repeats < 1) throw UsageError("--repeats: expected at least 1");
  if (large) return bench_clustering(seed, repeats, json);
  const std::vector<NamedWeight> weights = resnet50_weights(seed);
  const DiversityTiming timing = time_diversity(weights, static_cast<int>(repeats));
  const ModelDiversity& model = timing.diversity;
  if (json) {
    print_json({{"layers", model.layers.size()},
                {"seconds", timing.seconds},
                {"clustering", model.clustering},
                {"spectral", model.spectral}});
  } else {
    fmt::print("{} layers in {:.3f} s: clustering diversity {:.6f}, spectral {:.6f}\n",
               model.layers.size(), timing.seconds, model.clustering, model.spectral);
  }
}

}  // namespace

void run_bench(const Arguments& arguments) {
  run_one_of(
      "bench", "[options]",
      {{"train", bench_train, "images a second of whole training steps"},
       {"ops", bench_ops, "every operation, forward and backward, beside the device's rates"},
       {"data", bench_data, "JPEG files decoded and augmented"},
       {"diversity", bench_diversity, "both diversities of ResNet-50-shaped weights"},
       {"probe", bench_probe, "a linear probe's path of 45 strengths"},
       {"peers", bench_peers, "both beside PyTorch and SciPy, run in turn"}},
      arguments);
}

}  // namespace facet
