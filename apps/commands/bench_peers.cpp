// facet bench peers: ours and the peers' scripts in turn, each in a process of its own, so that
// whatever else the machine does meets all of them alike.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>

#include "apps/command.h"
#include "apps/interrupt.h"
#include "apps/log.h"
#include "apps/machine.h"
#include "tensor/file.h"
#include "tensor/parallel.h"
#include "tensor/text.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

// What PyTorch needs to be at its best on such a machine: freed memory is kept, and OpenBLAS and
// ATen take the widest vectors of the processor. docs/benchmarks says how much each gives.
std::string tuned_environment() {
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
  return fmt::format(
      "MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 "
      "OPENBLAS_CORETYPE={} ATEN_CPU_CAPABILITY={}",
      has_avx512 ? "SKYLAKEX" : "HASWELL", has_avx512 ? "avx512" : "avx2");
}

// The interpreter that Debian's python3-torch and python3-scipy belong to.
constexpr const char* kPython = "/usr/bin/python3";

struct Measured {
  std::vector<double> ours, peer_default, peer_tuned;
  double loss_agreement = 0.0;  // largest relative difference of losses or diversities
  double peer_agreement = 0.0;  // the same between the peer as it comes and tuned: the yardstick
  // MiB at the highest, and seconds until the first step is begun and done, of each side's median.
  Json extra = Json::object();
};

struct Row {
  std::string name;
  Measured (*run)(const Row& row, int rounds, const std::string& self);
  std::string options;    // for both sides
  std::string size = {};  // of the pictures of views
  std::string ours = {};  // options of ours alone
};

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

// Runs a shell command that prints one line of JSON.
Json run_json(const std::string& command) {
  FILE* pipe = ::popen(command.c_str(), "r");
  FACET_CHECK(pipe, "bench", "cannot start {}", command);
  std::string text;
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) text.append(buffer, n);
  const int status = ::pclose(pipe);
  stop_if_interrupted("bench stopped");
  const Json result = Json::parse(text, nullptr, false);
  FACET_CHECK(status == 0 && result.is_object(), "bench",
              "expected JSON, got exit code {} and '{}' from: {} (the peers need python3-torch, "
              "python3-torchvision and python3-scipy)",
              WIFEXITED(status) ? WEXITSTATUS(status) : -1, text.substr(0, 200), command);
  return result;
}

// Largest relative difference of two series of losses.
double disagreement(const Json& a, const Json& b) {
  FACET_CHECK(a.size() == b.size(), "bench", "{} losses against {}", a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = a[i], y = b[i];
    worst = std::max(worst, std::abs(x - y) / std::max(std::abs(x), 1e-12));
  }
  return worst;
}

struct RemoveAtEnd {
  explicit RemoveAtEnd(fs::path what) : path(std::move(what)) {}
  ~RemoveAtEnd() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  RemoveAtEnd(const RemoveAtEnd&) = delete;
  RemoveAtEnd& operator=(const RemoveAtEnd&) = delete;
  const fs::path path;
};

using Figure = std::function<Json(const Json& side)>;

// Ours, the peer as it comes and the peer tuned, in turn; `values`: what must agree.
Measured run_commands(const Row& row, int rounds, const std::array<std::string, 3>& commands,
                      const Figure& figure, const Figure& values) {
  Measured result;
  std::map<std::string, std::vector<double>> extra;
  for (int round = 0; round < rounds; ++round) {
    log_info("{}: round {} of {}", row.name, round + 1, rounds);
    const Json a = run_json(commands[0]), b = run_json(commands[1]), c = run_json(commands[2]);
    result.ours.push_back(figure(a));
    result.peer_default.push_back(figure(b));
    result.peer_tuned.push_back(figure(c));
    for (const Json* peer : {&b, &c})
      result.loss_agreement =
          std::max(result.loss_agreement, disagreement(values(a), values(*peer)));
    result.peer_agreement = std::max(result.peer_agreement, disagreement(values(b), values(c)));
    for (const auto& [side, told] :
         {std::pair{"ours", &a}, {"peer_default", &b}, {"peer_tuned", &c}})
      for (const char* key : {"peak_memory_mib", "start_up_seconds", "first_step_seconds"})
        if (told->contains(key)) extra[fmt::format("{}/{}", key, side)].push_back((*told)[key]);
  }
  for (const auto& [key, seconds_or_mib] : extra)
    result.extra[Json::json_pointer("/" + key)] = median(seconds_or_mib);
  return result;
}

Measured run_training(const Row& row, int rounds, const std::string& self) {
  const fs::path start =
      fs::temp_directory_path() / fmt::format("facet_bench_{}.safetensors", ::getpid());
  const std::string shared =
      row.options +
      (row.options.find("--method") == std::string::npos ? " --method supervised" : "") +
      " --steps 8 --warmup-steps 2";
  const std::string peer = fmt::format("{} {} {} --threads {} --start {}", kPython,
                                       quoted(std::string(FACET_PEERS) + "/train_peer.py"), shared,
                                       num_threads(), quoted(start.string()));
  const RemoveAtEnd removal(start);
  return run_commands(
      row, rounds,
      {fmt::format("{} bench train {} --json --threads {} --save-start {}", quoted(self), shared,
                   num_threads(), quoted(start.string())),
       peer, fmt::format("env {} {} --channels-last", tuned_environment(), peer)},
      [](const Json& side) { return side["images_per_second"]; },
      [](const Json& side) { return side["losses"]; });
}

Measured run_metrics(const Row& row, int rounds, const std::string& self) {
  const std::string peer = fmt::format(
      "{} {} {}", kPython, quoted(std::string(FACET_PEERS) + "/diversity_peer.py"), row.options);
  return run_commands(
      row, rounds,
      {fmt::format("{} bench diversity --json {}", quoted(self), row.options),
       peer + " --variant scipy", peer + " --variant tuned"},
      [](const Json& side) { return side["seconds"]; },
      [](const Json& side) {
        Json found = Json::array({side["clustering"]});
        if (side.contains("spectral")) found.push_back(side["spectral"]);
        return found;
      });
}

// One thread each: the rate of a core.
Measured run_views(const Row& row, int rounds, const std::string& self) {
  const fs::path folder =
      fs::temp_directory_path() / fmt::format("facet_bench_pictures_{}", ::getpid());
  const std::string shared = fmt::format(" --folder {} {}", quoted(folder.string()), row.options);
  const std::string peer =
      fmt::format("{} {}", kPython, quoted(std::string(FACET_PEERS) + "/views_peer.py"));
  const RemoveAtEnd removal(folder);
  make_folder(folder);
  run_json(fmt::format("{} {} --make 24 --size {}", peer, shared, row.size));
  return run_commands(
      row, rounds,
      {fmt::format("OMP_NUM_THREADS=1 {} bench data --json {} {}", quoted(self), shared, row.ours),
       fmt::format("OMP_NUM_THREADS=1 {} {}", peer, shared),
       fmt::format("env OMP_NUM_THREADS=1 {} {} {} --pillow-blur", tuned_environment(), peer,
                   shared)},
      [](const Json& side) { return side["images_per_second"]; },
      [](const Json& side) { return Json::array({side["mean"]}); });
}

const std::vector<Row>& all_rows() {
  const std::string resnet = "--arch resnet50 --stem imagenet --image-size 96 --batch-size 32 ";
  const std::string vit = "--arch vit_small --patch-size 16 --image-size 96 --batch-size 32 ";
  static const std::vector<Row> rows = {
      {"resnet50_224_b32", run_training,
       "--arch resnet50 --stem imagenet --image-size 224 --batch-size 32"},
      {"resnet18_224_b64", run_training,
       "--arch resnet18 --stem imagenet --image-size 224 --batch-size 64"},
      {"resnet18_32_b128", run_training,
       "--arch resnet18 --stem small --image-size 32 --batch-size 128"},
      {"simclr_resnet50_96", run_training, resnet + "--method simclr"},
      {"moco_resnet50_96", run_training, resnet + "--method moco --queue 4096 --norm-splits 1"},
      {"swav_resnet50_96", run_training, resnet + "--method swav --freeze-steps 0 --local-crops 2"},
      {"dino_vit_small_96", run_training,
       vit + "--method dino --out-dim 4096 --freeze-last-layer 0 --local-crops 2"},
      {"mae_vit_small_96", run_training, vit + "--method mae"},
      {"vit_base_224_b8", run_training,
       "--arch vit_base --patch-size 16 --image-size 224 --batch-size 8"},
      {"diversity_resnet50", run_metrics, ""},
      {"clustering_2048x4608", run_metrics, "--large"},
      {"moco_views_500x375", run_views, "--views moco", "500 375"},
      {"supervised_view_500x375", run_views, "--views supervised", "500 375"},
      {"supervised_view_1000x750", run_views, "--views supervised", "1000 750"},
      {"supervised_view_cache", run_views, "--views supervised", "500 375", "--cache 256"},
  };
  return rows;
}

}  // namespace

void bench_peers(const Arguments& arguments) {
  Options options("bench peers",
                  "Ours beside PyTorch and SciPy on the same weights and data, run in turn; both "
                  "as they come (with as many threads as we use) and tuned.");
  std::string rows = "all";
  int64_t rounds = 3;
  bool json = false;
  options.add("--rows", rows, "Comma-separated names, or all");
  options.add("--rounds", rounds, "Each side runs so often; medians count");
  options.flag("--json", json, "Print JSON");
  if (!options.parse(arguments)) return;
  if (rounds < 1) throw UsageError("--rounds: expected at least 1");

  const std::vector<std::string> names = names_of(all_rows());
  std::vector<Row> chosen;
  for (const std::string& word : split_list(rows)) {
    const auto before = chosen.size();
    for (const Row& row : all_rows())
      if (word == "all" || word == row.name) chosen.push_back(row);
    if (chosen.size() == before)
      throw UsageError("--rows: unknown row '{}'{}", word, did_you_mean(word, names));
  }

  const std::string self = fs::read_symlink("/proc/self/exe").string();
  Json results = Json::object();
  if (!json)
    fmt::print("{:<20} {:>10} {:>10} {:>10} {:>9} {:>9} {:>11} {:>11}\n", "row", "ours", "default",
               "tuned", "x default", "x tuned", "difference", "peers' own");
  for (const Row& row : chosen) {
    const Measured m = row.run(row, static_cast<int>(rounds), self);
    const bool is_rate = row.run != run_metrics;
    const double ours = median(m.ours), as_it_comes = median(m.peer_default),
                 tuned = median(m.peer_tuned);
    // Above 1: we are faster.
    const double over_default = is_rate ? ours / as_it_comes : as_it_comes / ours;
    const double over_tuned = is_rate ? ours / tuned : tuned / ours;
    results[row.name] = {
        {"unit", is_rate ? "images/s" : "s"},
        {"ours", ours},
        {"peer_default", as_it_comes},
        {"peer_tuned", tuned},
        {"ratio_default", over_default},
        {"ratio_tuned", over_tuned},
        {"loss_agreement", m.loss_agreement},
        {"peer_agreement", m.peer_agreement},
        {"extra", m.extra},
        {"rounds",
         {{"ours", m.ours}, {"peer_default", m.peer_default}, {"peer_tuned", m.peer_tuned}}}};
    if (!json) {
      fmt::print(
          "{:<20} {:>10.3f} {:>10.3f} {:>10.3f} {:>9.2f} {:>9.2f} {:>11.1e} {:>11.1e}  ({})\n",
          row.name, ours, as_it_comes, tuned, over_default, over_tuned, m.loss_agreement,
          m.peer_agreement, is_rate ? "images/s" : "s");
      for (const auto& [key, value] : m.extra.items())
        fmt::print("  {:<18} {:>10.2f} {:>10.2f} {:>10.2f}\n", key, value["ours"].get<double>(),
                   value["peer_default"].get<double>(), value["peer_tuned"].get<double>());
      std::fflush(stdout);
    }
  }
  if (json) print_json({{"machine", machine_description()}, {"rows", results}});
}

}  // namespace facet
