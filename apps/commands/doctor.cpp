// facet doctor: looks at a run's records and says what is wrong with it, and what usually helps.
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>

#include "apps/command.h"
#include "apps/log.h"
#include "apps/trainer.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

// What of a run is held to be wrong.
constexpr double kNearCollapse = 0.02;  // share of the collapse value
constexpr double kFlatSpread = 1e-3;    // standard deviation of normalised embeddings
constexpr double kNarrowRank = 1.5;     // effective rank
constexpr double kRisingLoss = 1.1;     // times the first loss
constexpr double kLongWait = 0.2;       // share of a step's time
constexpr size_t kFewRecords = 8;

struct Run {
  toml::table config;
  std::vector<Json> records;  // of training steps
  std::vector<Json> errors;   // of steps that were not finite

  std::string method() const { return config["method"].value_or(std::string("inject")); }
  double setting(const char* name) const { return config[name].value_or(NAN); }
  double mean_of_last_quarter(const char* key) const {
    double sum = 0, count = 0;
    for (size_t i = records.size() - std::max<size_t>(records.size() / 4, 1); i < records.size();
         ++i)
      if (const Json& value = records[i].value(key, Json()); value.is_number()) {
        sum += value.get<double>();
        ++count;
      }
    return sum / count;  // NaN where no record has it
  }
};

Run read_run(const fs::path& folder) {
  if (!fs::exists(folder / "metrics.jsonl") || !fs::exists(folder / "config.toml"))
    throw FileError("{}: expected a run's folder, with config.toml and metrics.jsonl in it",
                    folder.string());
  Run run;
  try {
    run.config = toml::parse_file((folder / "config.toml").string());
  } catch (const toml::parse_error& e) {
    throw FileError("{}:{}: {}", (folder / "config.toml").string(), e.source().begin.line,
                    e.description());
  }
  run.records = read_metrics(folder);
  run.errors = read_metrics(folder, true);
  return run;
}

// The usual reasons why a method stays at its collapse value.
std::string usual_causes(const Run& run, int64_t step) {
  const std::string method = run.method();
  if (method == "swav") {
    if (const double frozen = run.setting("freeze-steps"); static_cast<double>(step) < frozen)
      return fmt::format("the prototypes stand still until step {:.0f}: lower --freeze-steps",
                         frozen);
    if (run.setting("batch-size") < 256 && !(run.setting("queue") > 0))
      return "batches this small are too few for an assignment: give --queue (the official 256-"
             "image runs take 3840), or fewer --prototypes; else --epsilon 0.03";
    return "--epsilon 0.03 (the authors' advice), a smaller --lr, fewer --prototypes";
  }
  if (method == "dino") {
    if (run.setting("teacher-temp") > 0.07)
      return "the teacher is too soft: --teacher-temp 0.04 to 0.07";
    return "a longer warm-up, a smaller --lr, --warmup-teacher-temp 0.04, --norm-last-layer; many "
           "outputs need many steps: a smaller --out-dim for a short run";
  }
  if (method == "moco" || method == "ce+selfsupcon")
    return "another --lr (the official 0.03 is for 256 images), a shorter --queue or a smaller "
           "--key-momentum for a short run: keys of an old network are noise";
  if (method == "simclr" || method == "supcon")
    return "another --lr, --opt lars for large batches, a larger --temperature (0.2 to 0.5) for "
           "small ones";
  if (method == "mae")
    return "a longer warm-up and a smaller --lr; --norm-pix-loss; a smaller --mask-ratio for small "
           "pictures";
  return "another --lr; check that the labels belong to the pictures";
}

// [{level, what, advice}], a level being "error", "warning" or "ok".
Json examine(const Run& run) {
  Json findings = Json::array();
  const auto add = [&](const char* level, const std::string& what, const std::string& advice = "") {
    findings.push_back({{"level", level}, {"what", what}, {"advice", advice}});
  };
  for (const Json& error : run.errors) {
    const auto at = error.value("step", int64_t{0});
    // Steps behind it: it was skipped (--nonfinite), or the run was started again.
    const bool passed = !run.records.empty() && run.records.back()["step"].get<int64_t>() > at;
    add(passed ? "warning" : "error",
        fmt::format("step {}: {}{}", at, error.value("error", std::string("not finite")),
                    passed ? "; the run went on" : ""),
        "a smaller --lr, a longer --warmup-epochs, --clip-grad; --precision f32 if it was bf16; "
        "the samples of that batch are in metrics.jsonl");
  }
  if (run.records.empty()) {
    add("error", "no step was recorded", "the run stopped before its first step: start it again");
    return findings;
  }
  const Json &first = run.records.front(), &last = run.records.back();
  const int64_t step = last["step"];
  const double loss = run.mean_of_last_quarter("loss"), start = first.value("loss", NAN),
               collapse = run.mean_of_last_quarter("collapse_loss"),
               spread = run.mean_of_last_quarter("embedding_std"),
               rank = run.mean_of_last_quarter("effective_rank"),
               wait = run.mean_of_last_quarter("wait_share");
  if (run.records.size() < kFewRecords)
    add("warning", fmt::format("only {} records: too early to tell", run.records.size()));

  if (std::fabs(loss - collapse) < kNearCollapse * std::fabs(collapse))
    add("error",
        fmt::format("the loss, {:.4f}, is where it is when nothing is learned, {:.4f}", loss,
                    collapse),
        usual_causes(run, step));
  else if (loss > collapse && loss > kRisingLoss * start)
    add("error", fmt::format("the loss rose from {:.4f} to {:.4f}", start, loss),
        "a smaller --lr or a longer --warmup-epochs");
  else
    add("ok", fmt::format("the loss went from {:.4f} to {:.4f}{}", start, loss,
                          std::isfinite(collapse)
                              ? fmt::format("; nothing learned would be {:.4f}", collapse)
                              : std::string()));

  if (std::isfinite(spread)) {
    const bool flat = spread < kFlatSpread, narrow = rank < kNarrowRank;
    if (flat)
      add("error", fmt::format("all embeddings are equal (standard deviation {:.1e})", spread),
          usual_causes(run, step));
    else if (narrow)
      add("warning",
          fmt::format("embeddings fill {:.1f} of their dimensions (effective rank)", rank),
          "dimensional collapse: stronger augmentation, a larger batch, another --lr");
    else
      add("ok",
          fmt::format("embeddings are spread: standard deviation {:.4f}, effective rank {:.1f}",
                      spread, rank));
  }
  // Statistics of a batch give positive pairs away when both are in it.
  if (run.method() == "moco" && run.setting("norm-splits") <= 1)
    add("warning", "one batch norm for all keys can give the positive away",
        "--norm-splits 8, as on the paper's eight devices");
  if (wait > kLongWait)
    add("warning", fmt::format("{:.0f}% of the time is spent waiting for data", 100 * wait),
        "more --workers");
  return findings;
}

}  // namespace

void run_doctor(const Arguments& arguments) {
  Options options("doctor",
                  "Compares a run's loss and embeddings with those of a collapsed network and "
                  "names the usual causes. Exit code 1 where something is wrong.");
  std::string folder;
  bool json = false;
  required(options.add("run", folder, "The run's folder"));
  options.flag("--json", json, "Print JSON");
  if (!options.parse(arguments)) return;
  const Run run = read_run(folder);
  const Json findings = examine(run);
  size_t errors = 0;
  for (const Json& finding : findings) {
    errors += finding["level"] == "error";
    if (json) continue;
    const std::string level = finding["level"], what = finding["what"], advice = finding["advice"];
    fmt::print("{:<8} {}\n", level, what);
    if (!advice.empty()) fmt::print("{:<8} try: {}\n", "", advice);
  }
  if (json) print_json({{"run", folder}, {"method", run.method()}, {"findings", findings}});
  if (errors > 0)
    throw Error("{}: {} thing{} wrong", folder, errors, errors == 1 ? " is" : "s are");
}

}  // namespace facet
