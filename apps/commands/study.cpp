// facet study: the measurements of `facet reproduce` on checkpoints that the user brings.
#include <algorithm>
#include <set>

#include "apps/command.h"
#include "apps/log.h"
#include "apps/run_folder.h"
#include "apps/study/results.h"
#include "tensor/parallel.h"
#include "tensor/text.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

struct StudySettings {
  std::string folder, output, upstream = "fashion-mnist", data, device = "cpu";
  int64_t per_class = 1000, test = 2000, neighbours = 20, workers = 1, threads = 0;
  uint64_t seed = 0;
  bool json = false;
};

// "shapes:train=200,size=16,mnist:FOLDER" names two datasets: a word with '=' and no ':' before it
// belongs to the one before.
std::vector<std::string> specifications(const std::string& text) {
  std::vector<std::string> list;
  for (const std::string& word : split_list(text)) {
    const size_t equals = word.find('='), colon = word.find(':');
    if (!list.empty() && equals != std::string::npos && equals < colon)
      list.back() += "," + word;
    else
      list.push_back(word);
  }
  return list;
}

// Run folders and checkpoint files in the folder, by name.
std::vector<fs::path> checkpoints(const fs::path& folder) {
  if (!fs::is_directory(folder))
    throw FileError("{}: expected a folder of checkpoints", folder.string());
  std::vector<fs::path> list;
  for (const auto& entry : fs::directory_iterator(folder)) {
    static const std::set<std::string> kinds = {".safetensors", ".pth",  ".pt", ".npz",
                                                ".bin",         ".ckpt", ".tar"};
    const bool run = entry.is_directory() && fs::exists(entry.path() / "model.safetensors");
    const bool file = entry.is_regular_file() && kinds.contains(entry.path().extension().string());
    if (run || file) list.push_back(entry.path());
  }
  std::sort(list.begin(), list.end());
  if (list.size() < 2)
    throw FileError("{}: expected two checkpoints or runs or more to compare, found {}",
                    folder.string(), list.size());
  return list;
}

// A setting of the run that made a model, as its resolved configuration has it; empty without one.
std::string setting_of(const TrainedNetwork& network, const std::string& key) {
  const std::string config = value_of(network.metadata, "facet.config"), line = key + " = \"";
  size_t at = config.starts_with(line) ? 0 : config.find("\n" + line);
  if (at == std::string::npos) return "";
  at = config.find('"', at) + 1;
  return config.substr(at, config.find('"', at) - at);
}

// Names a measurement, so that another file under the same name is measured again.
std::string measurement_name(const fs::path& checkpoint) {
  const fs::path file =
      fs::is_directory(checkpoint) ? checkpoint / "model.safetensors" : checkpoint;
  return fmt::format("{}-{}-{}", checkpoint.filename().string(), fs::file_size(file),
                     fs::last_write_time(file).time_since_epoch().count());
}

Json study(const StudySettings& s) {
  const std::vector<fs::path> files = checkpoints(s.folder);
  const Device device = use_device(s.device);
  Upstream upstream{open_dataset(s.upstream, Split::train), open_dataset(s.upstream, Split::test),
                    s.neighbours};
  if (upstream.train->multi_label())
    throw UsageError("--upstream {}: expected one label a picture", s.upstream);
  const auto thin = [&](DatasetPtr& set, int64_t per_class) {
    if (per_class > 0 && per_class * set->num_classes() < set->size())
      set = balanced_subset(set, per_class, s.seed);
  };
  thin(upstream.train, s.per_class);
  thin(upstream.test, s.test > 0 ? std::max<int64_t>(1, s.test / upstream.test->num_classes()) : 0);
  std::vector<DownstreamTask> tasks;
  for (const std::string& specification : specifications(s.data)) {
    std::string name = specification.substr(0, specification.find(':'));
    const auto same = std::count_if(tasks.begin(), tasks.end(), [&](const DownstreamTask& task) {
      return task.name.substr(0, task.name.find(' ')) == name;
    });
    if (same > 0) name += fmt::format(" {}", same + 1);
    tasks.push_back(open_task(name, specification));
  }

  Json models = Json::array(), seconds = Json::object();
  for (const fs::path& file : files) {
    const std::string name = file.filename().string();
    Json measured = measured_once(s.output, measurement_name(file), [&] {
      log_info("measuring {}", name);
      TrainedNetwork network = load_network(file, device);
      return about(file.string(), [&] {
        Json result = measure_network(network, upstream, tasks, s.workers);
        const std::string cycle = setting_of(network, "cycle");
        result["cycle"] = cycle.empty() ? "-" : cycle;
        const fs::path from = setting_of(network, "from");
        result["start"] = from.empty() || cycle.empty() ? name : from.filename().string();
        return result;
      });
    });
    seconds["measure " + name] = measured["seconds"];
    models.push_back({{"name", name}, {"label", name}});
    models.back().update(measured);
  }
  return {{"title", fmt::format("Do diverse features transfer better? A study of {}", s.folder)},
          {"introduction",
           {fmt::format("For every checkpoint in {} this report measures its accuracy on {}, how "
                        "diverse its features are, and how well they serve other tasks (a linear "
                        "classifier on frozen features). A network without a classifier of those "
                        "classes gets one fitted to its features.",
                        s.folder, s.upstream)}},
          {"command", fmt::format("facet study {} --upstream {} --data {} --output {}", s.folder,
                                  s.upstream, s.data, s.output)},
          {"stage_seconds", seconds},
          {"models", models},
          {"tasks", describe_tasks(tasks)},
          {"configuration", Json::object()}};
}

}  // namespace

void run_study(const Arguments& arguments) {
  Options options("study",
                  "Measures every checkpoint in a folder, scores their transfer to the datasets "
                  "named, and writes the report of 'facet reproduce' about them.");
  StudySettings s;
  options.add("folder", s.folder, "Of checkpoints and run folders", Options::kProcess);
  options.add("--upstream", s.upstream, "Dataset of the accuracy:\n" + dataset_help());
  options.add("--data,--dataset", s.data, "Downstream datasets: SPEC,SPEC,...");
  options.add("--output", s.output, "Where the report goes (default: FOLDER/study)",
              Options::kProcess);
  options.add("--per-class", s.per_class, "Upstream training pictures a class (0: all)");
  options.add("--test", s.test, "Upstream test pictures (0: all)");
  options.add("-k,--neighbours", s.neighbours, "Of the kNN accuracy");
  options.add("--seed", s.seed, "Of the choice of pictures and the intervals");
  options.add("--device", s.device, "cpu, cuda or cuda:N", Options::kProcess);
  options.add("-j,--workers", s.workers, "Threads that prepare batches", Options::kProcess);
  options.add("--threads", s.threads, "Threads that compute (0: one a core)", Options::kProcess);
  options.flag("--json", s.json, "Print results.json", Options::kProcess);
  if (!options.parse(arguments)) return;
  if (s.folder.empty() || s.data.empty())
    throw UsageError("facet study: expected a folder of checkpoints and --data SPEC,SPEC,...");
  need(s.neighbours >= 1, "-k", "1 or more", s.neighbours);
  if (s.output.empty()) s.output = (fs::path(s.folder) / "study").string();
  if (s.threads > 0) set_num_threads(static_cast<int>(s.threads));
  (void)checkpoints(s.folder);  // before the output folder is made
  const RunFolder lock(s.output, options.toml());
  Json results = study(s);
  results["configuration"]["study"] = options.toml();
  finish_results(results, s.output, s.seed);
  if (s.json)
    print_json(results);
  else
    print_results(results, s.output);
}

}  // namespace facet
