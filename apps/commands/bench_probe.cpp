// facet bench probe: the regularisation path of a linear probe.
#include <filesystem>

#include "apps/command.h"
#include "apps/log.h"
#include "apps/machine.h"
#include "metrics/linear_probe.h"
#include "tensor/file.h"
#include "tensor/npy.h"
#include "tensor/ops.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

// Features behind a ReLU, positive and with a common mean as a network's, whose classes overlap.
ProbeData synthetic_features(int64_t rows, int64_t width, int64_t classes, uint64_t seed,
                             uint64_t stream) {
  const Tensor centres = ops::random_normal({classes, width}, {seed, 1});
  std::vector<int64_t> labels(static_cast<size_t>(rows));
  RandomSequence random({seed, stream});
  for (int64_t& label : labels)
    label = static_cast<int64_t>(random.below(static_cast<uint64_t>(classes)));
  const Tensor y = Tensor::from(labels, {rows});
  const Tensor x = ops::add(ops::affine(0.12, ops::gather_rows(centres, y), 0.2),
                            ops::random_normal({rows, width}, {seed, stream + 1}));
  return {ops::relu(x), y};
}

}  // namespace

void bench_probe(const Arguments& arguments) {
  Options options("bench probe", "Times the path of 45 strengths of a linear probe.");
  int64_t rows = 10000, width = 2048, classes = 100, threads = 0;
  uint64_t seed = 0;
  std::string save;
  bool json = false;
  options.add("--rows", rows, "Training samples; a fifth as many choose the strength");
  options.add("--width", width, "Features of a sample");
  options.add("--num-classes", classes, "Classes");
  options.add("--seed", seed, "Of the features");
  options.add("--threads", threads, "Threads (0: one a core)");
  options.add("--save", save, "Write x.npy and y.npy into this folder");
  options.flag("--json", json, "Print JSON");
  if (!options.parse(arguments)) return;
  if (rows < 5 || width < 1 || classes < 2)
    throw UsageError("facet bench probe: expected --rows of 5, --num-classes of 2 at least");
  if (threads > 0) set_num_threads(static_cast<int>(threads));
  const ProbeData train = synthetic_features(rows, width, classes, seed, 2),
                  validation = synthetic_features(rows / 5, width, classes, seed, 4);
  if (!save.empty()) {
    make_folder(save);
    save_npy(std::filesystem::path(save) / "x.npy", train.features);
    save_npy(std::filesystem::path(save) / "y.npy", train.targets);
  }
  const Stopwatch clock;
  ProbeOptions once;
  once.refit = false;
  const ProbeResult result = linear_probe(train, validation, classes, once);
  const double seconds = clock.seconds();
  Json steps = Json::array();
  for (const ProbeStep& step : result.steps)
    steps.push_back({{"c", step.c},
                     {"seconds", step.seconds},
                     {"objective", step.solver.value},
                     {"iterations", step.solver.iterations},
                     {"validation", step.score}});
  if (json)
    print_json({{"seconds", seconds}, {"c", result.c}, {"path", steps}});
  else
    fmt::print(
        "{} x {} features, {} classes: {} strengths in {:.2f} s, best C = {:.3g} ({:.1f}%)\n", rows,
        width, classes, result.steps.size(), seconds, result.c, 100 * result.score);
}

}  // namespace facet
