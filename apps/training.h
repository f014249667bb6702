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
  int64_t batch_size = 128, epochs = 10;
  std::string opt = "sgd", schedule = "cosine";
  double lr = 0.05, momentum = 0.9, beta2 = 0.999, weight_decay = 5e-4, weight_decay_end = -1.0;
  double warmup_epochs = 0.0, warmup_lr = 0.0, min_lr = 0.0;
  bool decay_norms = false;
  double clip_grad = 0.0, min_area = 0.0;
  std::string precision = "f32";
  uint64_t seed = 0;
  // How this process works, not what comes out.
  std::string device = "cpu";
  bool graph = true;
  int64_t workers = 1, log_interval = 10, threads = 0;
  double checkpoint_seconds = 60.0;

  void add_to(Options& options);
  void check() const;
};

struct PretrainOptions {
  RunOptions run;
  NetworkOptions network;
  MethodOptions method;

  void add_to(Options& options);
};

struct InjectOptions {
  RunOptions run;
  std::string from, cycle = "4", order = "joint", norm = "auto", head = "centroids",
                    skipped = "skip";
  double smoothing = 0.1, backbone_lr_scale = 1.0;

  void add_to(Options& options);
};

// Both continue what the folder holds and leave model.safetensors in it; a run that is complete
// returns at once. `config` is the resolved configuration.
TrainResult pretrain(const PretrainOptions& options, const std::string& config);
TrainResult inject(const InjectOptions& options, const std::string& config);

// The training images of a run.
DatasetPtr training_set(const RunOptions& options);
// The encoder that pretrain() starts from.
std::unique_ptr<Encoder> untrained_network(const MethodOptions& method,
                                           const NetworkOptions& network, uint64_t seed);

}  // namespace facet
