// facet pretrain, facet inject and facet finetune: one run each.
#include "apps/command.h"
#include "apps/training.h"

namespace facet {
namespace {

// A command whose settings have given their options: takes the arguments, runs it, and says what
// came of it.
void train(Options& options, const Arguments& arguments, const RunOptions& settings,
           const std::function<TrainResult()>& run) {
  bool json = false;
  options.flag("--json", json, "Print JSON", Options::kProcess);
  options.with_recipes();
  if (!options.parse(arguments)) return;
  const TrainResult result = run();
  const std::string& output = settings.output;
  if (json)
    print_json({{"output", output}, {"loss", result.loss}, {"seconds", result.seconds}});
  else
    fmt::print("{}: loss {:.4f} after {}\n", output, result.loss, format_seconds(result.seconds));
}

}  // namespace

void run_pretrain(const Arguments& arguments) {
  Options options(
      "pretrain",
      "Trains a network: without labels (SimCLR, MoCo v2, SwAV, DINO, MAE), or with them.");
  PretrainOptions settings;
  settings.add_to(options);
  train(options, arguments, settings.run, [&] {
    settings.resolve_batch();
    return pretrain(settings, options.toml());
  });
}

void run_inject(const Arguments& arguments) {
  Options options("inject",
                  "Injects labels into a pretrained network (Controlled Label Injection).");
  InjectOptions settings;
  settings.run.epochs = 4;
  settings.run.eval_epochs = 1;
  settings.add_to(options);
  train(options, arguments, settings.run, [&] { return inject(settings, options.toml()); });
}

void run_finetune(const Arguments& arguments) {
  Options options("finetune",
                  "Trains a pretrained network on a task. Its defaults are the protocol of Nayman "
                  "et al. for CNNs; --recipe finetune-vit is that for ViTs.");
  InjectOptions settings = InjectOptions::finetuning();
  settings.add_finetuning_to(options);
  train(options, arguments, settings.run,
        [&] { return inject(settings, options.toml(), "finetune"); });
}

}  // namespace facet
