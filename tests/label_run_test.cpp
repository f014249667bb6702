// Whole runs with labels: every option of injection and fine-tuning does something, what is
// measured during a run, and what a run says of itself.
#include <nlohmann/json.hpp>
#include <sstream>

#include "tensor/serialize.h"
#include "tensor/text.h"
#include "tests/program.h"

namespace facet {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

std::vector<Json> records(const fs::path& run, const std::string& split) {
  std::vector<Json> list;
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);)
    if (Json record = Json::parse(line); record["split"] == split) list.push_back(record);
  return list;
}

class LabelRunTest : public ProgramTest {
 protected:
  Words common(const std::string& output, const std::string& data) const {
    return {"--data",    data, "--batch-size", "16",        "--epochs", "3",
            "--threads", "1",  "--output",     path(output)};
  }
  static constexpr const char* kData = "shapes:train=64,test=40,size=16";

  // A network to start from.
  void pretrain(const Words& network = {"--width", "4"}) {
    const Outcome outcome =
        run(joined(joined(split("pretrain --method supervised --image-size 16"), network),
                   common("start", kData)));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
  }
  // The bytes of the weights after an injection.
  std::string injected(const std::string& output, const Words& more,
                       const std::string& file = "model.safetensors") {
    const Outcome outcome =
        run(joined(joined({"inject", "--from", path("start"), "--cycle", "3", "--eval-epochs", "0"},
                          common(output, kData)),
                   more));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    std::string bytes;
    if (outcome.code == 0)
      for (const NamedTensor& t : load_safetensors(path(output) + "/" + file).tensors)
        bytes.append(static_cast<const char*>(t.value.raw()), t.value.bytes());
    return bytes;
  }
  // Each of `options`, "--lr 0.1,--head probe --head-c 0.1", beside a run without it.
  void expect_all_differ(const std::string& options, const std::string& file = "model.safetensors",
                         const Words& base = {}) {
    const std::string plain = injected("plain", base, file);
    EXPECT_TRUE(injected("again", base, file) == plain);
    int i = 0;
    for (const std::string& option : split_list(options)) {
      const std::string bytes =
          injected(fmt::format("v{}", i++), joined(base, split(option)), file);
      EXPECT_TRUE(bytes != plain) << option;
    }
    for (int j = 0; j < i; ++j) fs::remove_all(path(fmt::format("v{}", j)));
    for (const char* name : {"plain", "again"}) fs::remove_all(path(name));
  }
};

TEST_F(LabelRunTest, EveryOptionOfInjectionChangesTheResult) {
  pretrain();
  expect_all_differ(
      "--cycle 1,--cycle inf,--order sequential,--norm eval,--norm batch_no_update,"
      "--skipped zero_grad,--skipped accumulate_mean,--skipped accumulate_sum,"
      "--phase zero_based,--phase per_epoch,--backbone-clock own,--backbone-lr-scale 0.5,"
      "--clip-grad 0.01,--head probe,--head probe --head-c 0.1,--head random,"
      "--head random --head-std 0.1,--head-unit-features,--head-unit-centroids,"
      "--head-scale 2,--head-nearest,--smoothing 0,--mixup 0.8,--cutmix 1,--reprob 1,"
      "--aa original,--cutout 0.5,--crop squash,--interpolation bicubic,--image-size 24,"
      "--accumulate 2,--sched onecycle");
  expect_all_differ("--clip-groups all", "model.safetensors", {"--clip-grad", "0.01"});
  expect_all_differ("--interpolation bilinear", "model.safetensors",  // of --aa alone
                    split("--aa original --crop squash"));
  for (const Words& more : {Words{"--clip-groups", "all"}, {"--accumulate", "3"}})
    expect_error(joined(joined({"inject", "--from", path("start")}, common("no", kData)), more), 2,
                 {more[0]});
  expect_error(joined(split("pretrain --method simclr --accumulate 2 --image-size 16 --width 4"),
                      common("no", kData)),
               2, {"--accumulate", "supervised"});
  EXPECT_FALSE(fs::exists(path("no")));
  const Words averaged = {"--model-ema", "--model-ema-decay", "0.9"};
  expect_all_differ("--model-ema-warmup,--ema-backbone own", "model-ema.safetensors", averaged);
}

TEST_F(LabelRunTest, EveryOptionOfAVitChangesTheResult) {
  pretrain(split("--arch vit_tiny --width 16 --depth 2 --heads 2"));
  expect_all_differ("--layer-decay 0.65,--drop-path 0.5,--pool mean");
  injected("mean", {"--pool", "mean"});
  EXPECT_EQ(run({"diversity", path("mean")}).code, 0);
}

// At every evaluation: accuracy, diversities, both scores, likeness to the start; of the average,
// too. Nothing of the backbone moves where T is infinite.
TEST_F(LabelRunTest, WhatANetworkBecomesIsMeasuredDuringTheRun) {
  pretrain();
  const auto run_with = [&](const std::string& cycle) {
    const Outcome outcome = run(joined({"inject", "--from", path("start"), "--cycle", cycle, "--lr",
                                        "0.1", "--model-ema", "--model-ema-decay", "0.9"},
                                       common("T" + cycle, kData)));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return records(path("T" + cycle), "test");
  };
  for (const std::string cycle : {"1", "inf"}) {
    const std::vector<Json> measured = run_with(cycle);
    ASSERT_EQ(measured.size(), 4u);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(measured[i]["step"], 4 * i);
      for (const std::string who : {"", "ema_"}) {
        const auto value = [&](const char* key) { return measured[i][who + key].get<double>(); };
        EXPECT_NEAR(value("clustering_cis"), value("accuracy") * value("clustering_diversity"),
                    1e-9);
        EXPECT_NEAR(value("spectral_cis"), value("accuracy") * value("spectral_diversity"), 1e-9);
        if (i == 0 || cycle == "inf") {
          EXPECT_NEAR(value("cka_to_start"), 1, 1e-5);
          EXPECT_EQ(value("clustering_diversity"),
                    measured[0]["clustering_diversity"].get<double>());
        } else {
          EXPECT_LT(value("cka_to_start"), 1 - 1e-5) << i << who;
        }
      }
    }
    // What `facet diversity` says of the result, and the accuracy of its own head.
    const auto shown = Json::parse(run({"diversity", path("T" + cycle), "--json"}).out)["model"];
    EXPECT_NEAR(shown["D_C"].get<double>(), measured[3]["clustering_diversity"].get<double>(),
                1e-6);
    EXPECT_TRUE(fs::exists(path("T" + cycle) + "/checkpoints/best"));
  }
}

TEST_F(LabelRunTest, FineTuningTakesOneOrManyLabels) {
  pretrain();
  const auto tune = [&](const std::string& output, const std::string& data, const Words& more) {
    const Outcome outcome =
        run(joined(joined({"finetune", "--from", path("start")}, common(output, data)), more));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return records(path(output), "test");
  };
  const std::string scene = "scene:train=48,test=40,size=16";
  const auto single = tune("single", "textures:train=48,test=40,size=16", {});
  EXPECT_GE(single.back()["accuracy"].get<double>(), 0);
  EXPECT_NEAR(single.back()["score"].get<double>(), single.back()["ema_accuracy"].get<double>(), 0);
  const auto many = tune("many", scene, {}), binary = tune("binary", scene, {"--loss", "bce"});
  EXPECT_GT(many.back()["mAP"].get<double>(), 0);
  EXPECT_NE(records(path("many"), "train").back()["loss"],
            records(path("binary"), "train").back()["loss"]);
  EXPECT_EQ(load_safetensors(path("many/model-ema.safetensors")).metadata.at("facet.method"),
            "finetune");
  for (const Words& more : {Words{"--mixup", "1"}, {"--head", "centroids"}})
    expect_error(joined(joined({"finetune", "--from", path("start")}, common("no", scene)), more),
                 2, {"several labels"});
  expect_error(
      joined({"finetune", "--from", path("start"), "--layer-decay", "0.5"}, common("no", kData)), 2,
      {"--layer-decay"});
  EXPECT_FALSE(fs::exists(path("no")));
}

TEST_F(LabelRunTest, ARunSaysWhoMadeItAndAnEnvironmentSitsBelowTheCommandLine) {
  const Words command =
      joined(split("pretrain --method supervised --image-size 16 --width 4"), common("run", kData));
  const auto with = [&](const char* variable, const char* value, const auto& work) {
    ::setenv(variable, value, 1);
    work();
    ::unsetenv(variable);
  };
  write_file(path("a.toml"), "lr = 0.25\nbatch-size = 8\n");
  const auto config = [&](const Words& more) {
    return run(joined({"pretrain", "--recipe", path("a.toml"), "--print-config"}, more)).out;
  };
  with("FACET_BATCH_SIZE", "32", [&] {
    EXPECT_NE(config({}).find("batch-size = 32\n"), std::string::npos);
    EXPECT_NE(config({"-b", "64"}).find("batch-size = 64\n"), std::string::npos);
    EXPECT_NE(config({}).find("lr = 0.25\n"), std::string::npos);
  });
  with("FACET_MODEL_EMA", "1", [&] {
    EXPECT_NE(config({}).find("model-ema = true\n"), std::string::npos);
    EXPECT_NE(config({"--no-model-ema"}).find("model-ema = false\n"), std::string::npos);
  });
  with("FACET_EPOCHS", "many", [&] {
    expect_error({"pretrain", "--print-config"}, 2, {"FACET_EPOCHS", "many"});
  });

  // A dry run takes a step and leaves nothing; a trace holds whole steps.
  const Outcome dry = run(joined(command, {"--dry-run"}));
  EXPECT_EQ(dry.code, 0) << dry.err;
  EXPECT_NE(dry.err.find("dry run: "), std::string::npos) << dry.err;
  EXPECT_FALSE(fs::exists(path("run")));
  const Outcome real = run(
      joined(command, {"--trace", path("trace.json"), "--trace-from", "3", "--trace-steps", "2"}));
  ASSERT_EQ(real.code, 0) << real.err;
  const auto trace = Json::parse(read_file(path("trace.json")));
  struct Interval {
    double begin, end;
  };
  std::vector<Interval> steps;
  size_t convolutions = 0;
  for (const auto& event : trace["traceEvents"])
    if (event["name"] == "step")
      steps.push_back({event["ts"], event["ts"].get<double>() + event["dur"].get<double>()});
  ASSERT_EQ(steps.size(), 2u);
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] != "X") continue;
    const double begin = event["ts"], end = begin + event["dur"].get<double>();
    EXPECT_GE(begin, 0);
    if (event["cat"] != "operation" || event["tid"] != 1) continue;
    EXPECT_TRUE(std::any_of(steps.begin(), steps.end(), [&](const Interval& step) {
      return begin >= step.begin && end <= step.end;
    })) << event.dump();
    convolutions += event["name"] == "conv2d";
  }
  EXPECT_EQ(convolutions, 2u * 20);  // ResNet-18: 17 and 3 shortcuts

  const auto session = Json::parse(read_file(path("run/sessions.jsonl")));
  EXPECT_EQ(session["command"][1], "pretrain");
  EXPECT_EQ(session["pictures"], 64);
  EXPECT_EQ(session["seed"], 0);
  for (const char* key : {"version", "commit", "compiler", "build", "processor"})
    EXPECT_FALSE(session["machine"][key].get<std::string>().empty()) << key;
  EXPECT_EQ(
      session["fingerprint"],
      load_safetensors(path("run/model.safetensors")).metadata.at("facet.dataset_fingerprint"));
}

}  // namespace
}  // namespace facet
