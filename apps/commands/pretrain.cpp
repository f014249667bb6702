// facet pretrain and facet inject: one run each.
#include "apps/command.h"
#include "apps/training.h"

namespace facet {
namespace {

void print_result(const std::string& output, const TrainResult& result, bool json) {
  if (json)
    fmt::print(
        "{}\n",
        Json({{"output", output}, {"loss", result.loss}, {"seconds", result.seconds}}).dump());
  else
    fmt::print("{}: loss {:.4f} after {}\n", output, result.loss, format_seconds(result.seconds));
}

}  // namespace

void run_pretrain(const Arguments& arguments) {
  Options options(
      "pretrain",
      "Trains a network: without labels (SimCLR, MoCo v2, SwAV, DINO, MAE), or with them.");
  PretrainOptions settings;
  bool json = false;
  settings.add_to(options);
  options.flag("--json", json, "Print JSON", Options::kProcess);
  options.with_recipes();
  if (!options.parse(arguments)) return;
  print_result(settings.run.output, pretrain(settings, options.toml()), json);
}

void run_inject(const Arguments& arguments) {
  Options options("inject",
                  "Injects labels into a pretrained network (Controlled Label Injection).");
  InjectOptions settings;
  settings.run.epochs = 4;
  bool json = false;
  settings.add_to(options);
  options.flag("--json", json, "Print JSON", Options::kProcess);
  options.with_recipes();
  if (!options.parse(arguments)) return;
  print_result(settings.run.output, inject(settings, options.toml()), json);
}

}  // namespace facet
