// Pretraining and label injection as whole runs: from settings to model.safetensors in a folder.
#pragma once

#include <string>

#include "apps/data_options.h"
#include "apps/methods.h"
#include "apps/trainer.h"
#include "data/dataset.h"

namespace facet {

// What both kinds of run share.
struct RunOptions {
  std::string data = "fashion-mnist", output;
  ReadingOptions reading;
  int64_t per_class = 0;  // training images a class; 0: all
  int64_t batch_size = 128, accumulate = 1, epochs = 10;
  std::string opt = "sgd", schedule = "cosine";
  double lr = 0.05, momentum = 0.9, beta2 = 0.999, weight_decay = 5e-4, weight_decay_end = -1.0;
  double warmup_epochs = 0.0, warmup_lr = 0.0, min_lr = 0.0;
  bool decay_norms = false;
  double clip_grad = 0.0, min_area = 0.0;
  std::string precision = "f32", nonfinite = "fail";
  uint64_t seed = 0;
  // How this process works, not what comes out.
  std::string device = "cpu";
  bool graph = true;
  int64_t workers = 1, log_interval = 10, threads = 0;
  double checkpoint_seconds = 60.0, max_seconds = 0.0;
  std::string trace, on_preempt = "exit";
  int64_t trace_from = 5, trace_steps = 3;
  bool dry_run = false;
  // Training with labels: measurements during the run, and the average of the weights.
  int64_t eval_epochs = 0, eval_per_class = 0;
  bool model_ema = false, ema_warmup = false;
  double ema_decay = 0.9998;

  void add_to(Options& options);
  void check() const;
  int64_t max_skipped_steps() const;  // of --nonfinite
};

struct PretrainOptions {
  RunOptions run;
  NetworkOptions network;
  MethodOptions method;
  bool batch_per_device = false;

  void add_to(Options& options);
  // The whole batch of a batch for each device: from then on the configuration holds it.
  void resolve_batch();
};

// Injection and, where T is 1, fine-tuning: what stays open in algorithm 1 of Nayman et al. has a
// default and an option (ssl/label_injection.h).
struct InjectOptions {
  RunOptions run;
  LabelTraining labels{.smoothing = 0.1};
  std::string from, cycle = "4", order = "joint", norm = "auto", skipped = "skip", phase = "global",
                    backbone_clock = "global", ema_backbone = "always", clip_groups = "stepped";
  double backbone_lr_scale = 1.0, layer_decay = 1.0, drop_path = 0.0;
  int64_t image_size = 0;  // 0: what the network was trained with
  std::string pool = "keep", loss = "asymmetric";
  std::string head = "centroids";
  bool unit_features = false, unit_centroids = false, nearest_bias = false;
  double head_scale = 1.0, head_std = 0.01, head_c = 1.0;

  void add_to(Options& options);
  // The settings of the paper's fine-tuning of CNNs as defaults, without those of the cycle.
  static InjectOptions finetuning();
  void add_finetuning_to(Options& options);
};

// Both continue what the folder holds and leave model.safetensors in it; a run that is complete
// returns at once. `config` is the resolved configuration.
TrainResult pretrain(const PretrainOptions& options, const std::string& config);
TrainResult inject(const InjectOptions& options, const std::string& config,
                   const char* method = "inject");

// The training images of a run.
DatasetPtr training_set(const RunOptions& options);
// The encoder that pretrain() starts from.
std::unique_ptr<Encoder> untrained_network(const MethodOptions& method,
                                           const NetworkOptions& network, uint64_t seed);

}  // namespace facet
