// facet pretrain, facet inject and facet finetune: one run each.
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
  settings.resolve_batch();
  print_result(settings.run.output, pretrain(settings, options.toml()), json);
}

void run_inject(const Arguments& arguments) {
  Options options("inject",
                  "Injects labels into a pretrained network (Controlled Label Injection).");
  InjectOptions settings;
  settings.run.epochs = 4;
  settings.run.eval_epochs = 1;
  bool json = false;
  settings.add_to(options);
  options.flag("--json", json, "Print JSON", Options::kProcess);
  options.with_recipes();
  if (!options.parse(arguments)) return;
  print_result(settings.run.output, inject(settings, options.toml()), json);
}

void run_finetune(const Arguments& arguments) {
  Options options("finetune",
                  "Trains a pretrained network on a task. Its defaults are the protocol of Nayman "
                  "et al. for CNNs; --recipe finetune-vit is that for ViTs.");
  InjectOptions settings = InjectOptions::finetuning();
  bool json = false;
  settings.add_finetuning_to(options);
  options.flag("--json", json, "Print JSON", Options::kProcess);
  options.with_recipes();
  if (!options.parse(arguments)) return;
  print_result(settings.run.output, inject(settings, options.toml(), "finetune"), json);
}

}  // namespace facet
