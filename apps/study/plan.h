// What `facet reproduce` trains: ways of pretraining, and label injection into them.
#pragma once

#include <string>
#include <vector>

#include "apps/training.h"

namespace facet {

// A way of pretraining: the method of a run, and its folder.
struct Start {
  const char* method;
  const char* title;
};

struct StudyModel {
  std::string name, label;   // "SimCLR + labels, T = 4", "T=4"
  std::string start, cycle;  // "simclr", "4"; cycle "-" for a start itself
  std::string folder;

  bool injected() const { return cycle != "-"; }
};

struct StudyOptions {
  std::string output = "runs/reproduce", data = "fashion-mnist", starts = "all",
              inject = "supervised,simclr", cycles = "1,4,inf";
  uint64_t seed = 0;
  std::string device = "cpu";
  bool fast = false, full = false;
  int64_t workers = 1, threads = 0;
  // The network, and how long each kind of run trains.
  int64_t width = 16, image_size = 20, per_class = 500, batch_size = 128, simclr_batch = 32;
  int64_t simclr_epochs = 10, supervised_epochs = 8, other_epochs = 4, inject_epochs = 4;
  double simclr_min_area = 0.3;
  double simclr_lr = 0.2, simclr_weight_decay = 1e-3, supervised_lr = 0.1, inject_lr = 0.03,
         temperature = 0.2;
  // Downstream: training pictures of a task, of which a quarter chooses C, and test pictures.
  int64_t task_train = 1200, task_test = 1000, test = 2000, neighbours = 20;

  void add_to(Options& options);
  // --fast and --full: other values for what was not given.
  void resize(const Options& given);
};

// A UsageError where a word names no start, or where there is nothing to compare.
std::vector<Start> chosen_starts(const StudyOptions& options);
// Every start, each followed by what labels make of it.
std::vector<StudyModel> study_models(const StudyOptions& options, const std::vector<Start>& starts);

// The settings of every run; `root` is the study's folder.
RunOptions run_options(const StudyOptions& options, const std::filesystem::path& root,
                       const std::string& folder, int64_t epochs, double lr);
PretrainOptions pretraining(const StudyOptions& options, const std::filesystem::path& root,
                            const std::string& start);
InjectOptions injection(const StudyOptions& options, const std::filesystem::path& root,
                        const StudyModel& model);

// The downstream tasks.
inline constexpr const char* kStudyTasks[] = {"shapes", "textures", "digits", "scene", "counts"};
std::string task_specification(const StudyOptions& options, const std::string& task);

}  // namespace facet
