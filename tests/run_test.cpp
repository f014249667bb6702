// Whole runs of the program: stopping and continuing changes nothing, guards stop in time, and the
// study goes from pictures to report.
#include <sys/file.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tensor/serialize.h"
#include "tests/program.h"

namespace facet {
namespace {

namespace fs = std::filesystem;
using RunTest = ProgramTest;

// 32 steps of a tiny network.
Words tiny(const std::string& output) {
  return split(
      "--data shapes:train=64,size=16 --batch-size 16 --epochs 8 --threads 1 --log-interval 1 "
      "--output " +
      output);
}
Words tiny_pretrain(const std::string& method, const std::string& output) {
  return joined(split("pretrain --width 4 --image-size 16 --method " + method), tiny(output));
}

Words tiny_vit(const std::string& method, const std::string& output) {
  return joined(
      split("pretrain --arch vit_tiny --width 16 --depth 2 --heads 2 --image-size 16 --drop-path "
            "0.1 --opt adamw --lr 0.001 --decoder-width 16 --decoder-depth 1 --decoder-heads 2 "
            "--out-dim 16 --head-hidden 16 --head-bottleneck 8 --method " +
            method),
      tiny(output));
}

void expect_same_model(const fs::path& a, const fs::path& b) {
  expect_same_weights(a / "model.safetensors", b / "model.safetensors");
}

class ResumeTest : public ProgramTest {
 protected:
  // Starts the command, sends the signal once `lines` records are written; returns how it ended.
  Outcome stop_after(const Words& command, const fs::path& run_folder, int lines, int signal) {
    const pid_t pid = start(command);
    for (int i = 0; i < 6000; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      if (!fs::exists(run_folder / "metrics.jsonl")) continue;
      const std::string text = read_file(run_folder / "metrics.jsonl");
      if (std::count(text.begin(), text.end(), '\n') >= lines) break;
    }
    ::kill(pid, signal);
    return finish(pid);
  }

  // Straight; stopped by SIGINT and continued; killed and continued: the same weights.
  void expect_resumable(const std::function<Words(const std::string&)>& command) {
    ASSERT_EQ(run(command(path("straight"))).code, 0);
    // On a busy machine a run may be over before the signal comes: then another one is begun.
    Outcome stopped;
    std::string folder;
    int attempt = 0;
    do {
      folder = fmt::format("stopped{}", attempt);
      stopped =
          stop_after(joined(command(path(folder)), {"--workers", "2"}), path(folder), 3, SIGINT);
    } while (stopped.code == 0 && ++attempt < 10);
    EXPECT_EQ(stopped.code, 75) << stopped.err;
    EXPECT_NE(stopped.err.find("run the same command again"), std::string::npos) << stopped.err;
    EXPECT_FALSE(fs::exists(path(folder + "/model.safetensors")));
    const Outcome again = run(command(path(folder)));
    ASSERT_EQ(again.code, 0) << again.err;
    expect_same_model(path("straight"), path(folder));

    stop_after(joined(command(path("killed")), {"--checkpoint-seconds", "0"}), path("killed"), 4,
               SIGKILL);
    ASSERT_EQ(run(command(path("killed"))).code, 0);
    expect_same_model(path("straight"), path("killed"));
  }
};

TEST_F(ResumeTest, Simclr) {
  expect_resumable([](const std::string& output) { return tiny_pretrain("simclr", output); });
}

TEST_F(ResumeTest, Supervised) {
  expect_resumable([](const std::string& output) { return tiny_pretrain("supervised", output); });
}

// Networks that follow others, centres, masks, drop path, and batches mixed by chance.
TEST_F(ResumeTest, DinoWithAVit) {
  expect_resumable([](const std::string& output) { return tiny_vit("dino", output); });
}

TEST_F(ResumeTest, Mae) {
  expect_resumable([](const std::string& output) { return tiny_vit("mae", output); });
}

TEST_F(ResumeTest, SupervisedWithMixing) {
  expect_resumable([](const std::string& output) {
    return joined(tiny_vit("supervised", output),
                  {"--mixup", "0.8", "--cutmix", "1", "--reprob", "0.5", "--smoothing", "0.1",
                   "--aa", "rand-m9-mstd0.5-inc1", "--weight-decay-end", "0.4"});
  });
}

// What every method leaves is a network that is read, injected into and evaluated.
TEST_F(RunTest, EveryMethodLeavesANetwork) {
  for (const char* method : {"simclr", "moco", "swav", "supcon", "ce+selfsupcon", "dino"}) {
    const Outcome outcome = run(joined(tiny_pretrain(method, path(method)),
                                       {"--prototypes", "8", "--norm-splits", "2", "--out-dim",
                                        "16", "--head-hidden", "16", "--head-bottleneck", "8"}));
    ASSERT_EQ(outcome.code, 0) << method << outcome.err;
  }
  for (const char* method : {"mae", "simclr"}) {
    const std::string folder = path(std::string("vit_") + method);
    ASSERT_EQ(run(tiny_vit(method, folder)).code, 0) << method;
    const Outcome injected =
        run(joined({"inject", "--from", folder, "--cycle", "2"}, tiny(folder + "_labels")));
    ASSERT_EQ(injected.code, 0) << injected.err;
  }
  for (const char* folder : {"moco", "swav", "supcon", "ce+selfsupcon", "dino", "vit_mae",
                             "vit_simclr", "vit_mae_labels"})
    for (const char* command : {"knn", "diversity"}) {
      Words words = {command, path(folder), "--json"};
      if (command == std::string("knn"))
        words = joined(words, {"-k", "3", "--data", "shapes:train=32,test=16,size=16"});
      const Outcome outcome = run(words);
      EXPECT_EQ(outcome.code, 0) << folder << outcome.err;
    }
}

TEST_F(ResumeTest, InjectionInTheMiddleOfACycle) {
  ASSERT_EQ(run(tiny_pretrain("simclr", path("start"))).code, 0);
  expect_resumable([this](const std::string& output) {
    return joined({"inject", "--from", path("start"), "--cycle", "3", "--lr", "0.01"},
                  tiny(output));
  });
}

TEST_F(RunTest, InfiniteCycleLeavesTheBackboneAsItWas) {
  ASSERT_EQ(run(tiny_pretrain("simclr", path("start"))).code, 0);
  const Words inject =
      joined({"inject", "--from", path("start"), "--cycle", "inf"}, tiny(path("probe")));
  ASSERT_EQ(run(inject).code, 0);
  const auto before = load_safetensors(path("start/model.safetensors")).tensors;
  const auto after = load_safetensors(path("probe/model.safetensors")).tensors;
  const auto checkpoint = load_safetensors(path("probe/checkpoints/step-0000000032.safetensors"));
  EXPECT_EQ(checkpoint.metadata.at("facet.start"), "simclr");
  ASSERT_EQ(after.size(), before.size() + 2);  // the classifier
  for (const auto& [name, value] : before) {
    const auto same = std::find_if(after.begin(), after.end(),
                                   [&, n = name](const NamedTensor& t) { return t.name == n; });
    ASSERT_NE(same, after.end()) << name;
    EXPECT_EQ(std::memcmp(same->value.raw(), value.raw(), value.bytes()), 0) << name;
  }
}

TEST_F(RunTest, AFinishedRunIsNotRepeatedAndOtherSettingsAreRefused) {
  const Words command = tiny_pretrain("supervised", path("run"));
  ASSERT_EQ(run(command).code, 0);
  const std::string model = read_file(path("run/model.safetensors"));
  const Outcome again = run(command);
  EXPECT_EQ(again.code, 0);
  EXPECT_NE(again.err.find("complete already"), std::string::npos) << again.err;
  EXPECT_EQ(read_file(path("run/model.safetensors")), model);
  expect_error(joined(command, {"--lr", "0.5"}), 2, {"lr = 0.05", "lr = 0.5", "--output"});
  const int lock = ::open(path("run/.lock").c_str(), O_RDWR);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  expect_error(command, 3, {"another process"});
  ::close(lock);
}

TEST_F(RunTest, ADamagedCheckpointGivesWayToTheOneBefore) {
  const Words command = tiny_pretrain("supervised", path("run"));
  ASSERT_EQ(run(joined(command, {"--checkpoint-seconds", "0"})).code, 0);
  ASSERT_EQ(run(tiny_pretrain("supervised", path("straight"))).code, 0);
  fs::remove(path("run/model.safetensors"));
  fs::resize_file(path("run/checkpoints/step-0000000032.safetensors"), 1000);
  const Outcome outcome = run(command);
  EXPECT_EQ(outcome.code, 0);
  test::expect_parts(outcome.err, {"step-0000000032.safetensors", "continuing after step 31"});
  expect_same_model(path("straight"), path("run"));
}

TEST_F(RunTest, ANonFiniteLossStopsBeforeTheWeightsAreTouched) {
  const Words command = joined(tiny_pretrain("supervised", path("run")),
                               {"--lr", "1e30", "--checkpoint-seconds", "0"});
  expect_error(command, 6, {"step", "metrics.jsonl", "checkpoints"});
  EXPECT_FALSE(fs::exists(path("run/model.safetensors")));
  for (const auto& entry : fs::directory_iterator(path("run/checkpoints"))) {
    if (entry.path().extension() != ".safetensors") continue;
    for (const auto& [name, value] : load_safetensors(entry.path()).tensors) {
      if (!name.starts_with("model.") || value.dtype() != DType::f32) continue;
      for (const float v : value.to_vector<float>()) ASSERT_TRUE(std::isfinite(v)) << name;
    }
  }
  // The record of the bad step names its samples.
  const std::string log = read_file(path("run/metrics.jsonl"));
  EXPECT_NE(log.find("\"samples\""), std::string::npos);
  EXPECT_EQ(log.find("nan"), std::string::npos);
}

TEST_F(RunTest, EvaluationsPrintJson) {
  ASSERT_EQ(run(tiny_pretrain("supervised", path("run"))).code, 0);
  const auto json = [&](const Words& words) {
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out);
  };
  const std::string data = "shapes:train=64,test=40,size=16";
  const auto diversity = json({"diversity", path("run"), "--json"});
  EXPECT_GT(diversity["model"]["D_C"].get<double>(), 0);
  EXPECT_EQ(diversity["layers"].size(), 20u);  // 17 convolutions of ResNet-18 and 3 shortcuts
  EXPECT_EQ(json({"knn", path("run"), "--data", data, "-k", "5", "--json"})["test"], 40);
  EXPECT_EQ(json({"knn", "pixels", "--data", data, "-k", "5", "--json"})["model"], "pixels");
  EXPECT_EQ(
      json({"probe", path("run"), "--data", "scene:train=64,test=40,size=16", "--json"})["metric"],
      "mAP");
  const auto bench = json({"bench", "train", "--arch", "resnet18", "--image-size", "16", "--width",
                           "4", "-b", "4", "--steps", "3", "--num-classes", "10", "--json"});
  EXPECT_EQ(bench["losses"].size(), 5u);
  EXPECT_GT(bench["images_per_second"].get<double>(), 0);
  EXPECT_GT(bench["tflop_per_step"].get<double>(), 0);
}

#if defined(FACET_CUDA_EMULATED)
TEST_F(RunTest, EvaluationsOnADeviceAreTheCpus) {
  const Words training = split(
      "pretrain --method supervised --width 2 --image-size 8 -b 16 --data shapes:train=32,size=8 "
      "--epochs 1 --output " +
      path("run"));
  ASSERT_EQ(run(training).code, 0);
  const auto both = [&](Words words) {
    std::vector<nlohmann::json> results;
    for (const char* device : {"cpu", "cuda"}) {
      const Outcome outcome = run(joined(words, {"--device", device, "--json"}));
      EXPECT_EQ(outcome.code, 0) << outcome.err;
      EXPECT_EQ(outcome.err.find("cuda:0 is") != std::string::npos, device[1] == 'u');
      results.push_back(nlohmann::json::parse(outcome.out));
    }
    return results;
  };
  const std::string data = "shapes:train=20,test=10,size=8";
  const auto diversity = both({"diversity", path("run")});
  for (const char* kind : {"D_C", "D_S"})
    EXPECT_NEAR(diversity[1]["model"][kind].get<double>(),
                diversity[0]["model"][kind].get<double>(), 1e-4);
  // A picture more or less: features differ in their last digits.
  for (const Words& words : {Words{"knn", path("run"), "-k", "5"},
                             Words{"knn", "pixels", "-k", "5"}, Words{"probe", path("run")}}) {
    const auto score = both(joined(words, {"--data", data}));
    EXPECT_NEAR(score[1]["percent"].get<double>(), score[0]["percent"].get<double>(), 10.0);
  }
  // A head from features of the device: the first loss is the CPU's.
  for (const char* head : {"probe", "centroids"}) {
    std::vector<double> losses;
    for (const char* device : {"cpu", "cuda"}) {
      const std::string folder = path(std::string(head) + device);
      const Outcome outcome = run({"inject", "--from", path("run"), "--head", head, "--cycle", "2",
                                   "--data", "shapes:train=20,size=8", "-b", "20", "--epochs", "1",
                                   "--log-interval", "1", "--device", device, "--output", folder});
      ASSERT_EQ(outcome.code, 0) << outcome.err;
      const std::string log = read_file(folder + "/metrics.jsonl");
      const size_t first = log.rfind('\n', log.find("\"split\":\"train\"")) + 1;
      losses.push_back(
          nlohmann::json::parse(log.substr(first, log.find('\n', first) - first))["loss"]);
    }
    EXPECT_NEAR(losses[1], losses[0], 1e-3 * losses[0]) << head;
  }
}
#endif

TEST_F(RunTest, TheStudyGoesFromPicturesToReportAndContinues) {
  if (!fs::exists("/usr/share/datasets/fashion-mnist"))
    GTEST_SKIP() << "dataset-fashion-mnist is not installed";
  const Words command = {"reproduce",    "--fast", "--threads",    "1",
                         "--per-class",  "8",      "--batch-size", "16",
                         "--image-size", "16",     "--output",     path("study")};
  // Stopped in the first training, then between or inside later stages.
  const pid_t pid = start(command);
  for (int i = 0; i < 6000 && !fs::exists(path("study/supervised/metrics.jsonl")); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  ::kill(pid, SIGTERM);
  const Outcome stopped = finish(pid);
  EXPECT_EQ(stopped.code, 75) << stopped.err;
  const Outcome outcome = run(command);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const char* text : {"SimCLR + labels, T = 4", "transfer", "kNN accuracy", "collapse value"})
    EXPECT_NE(outcome.out.find(text), std::string::npos) << text << "\n" << outcome.out;
  const auto results = nlohmann::json::parse(read_file(path("study/results.json")));
  ASSERT_EQ(results["models"].size(), 14u);
  EXPECT_EQ(results["starts"].size(), 8u);
  double sum = 0;
  for (const auto& model : results["models"]) {
    EXPECT_EQ(model["probes"].size(), 5u);
    EXPECT_GE(model["inter"].get<double>(), model["intra"].get<double>());
    EXPECT_TRUE(model["cka"].is_number());
    EXPECT_NEAR(model["clustering_cis"].get<double>(),
                model["accuracy"].get<double>() * model["clustering_diversity"].get<double>(),
                1e-9);
    sum += model["transfer"].get<double>();
  }
  EXPECT_NEAR(sum, 0, 1e-9);  // scores are relative to the models' mean
  // The backbone that never learned from labels is its start's.
  EXPECT_EQ(results["injections"].size(), 2u);
  EXPECT_NEAR(
      results["injections"][1]["models"][2]["to_start"].get<double>(),
      [&] {
        double sum_of = 0.0;
        for (const auto& row : results["models"][6]["cka_matrix"])
          for (const auto& value : row) sum_of += value.get<double>() / 16.0;
        return 100.0 * sum_of;
      }(),
      0.01);
  EXPECT_EQ(results["models"][9]["probes"], results["models"][6]["probes"]);
  EXPECT_GT(fs::file_size(path("study/report.html")), 20'000u);
  const std::string csv = read_file(path("study/results.csv"));
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 15);
  // Once more: nothing is repeated, the same table comes out.
  const Outcome again = run(command);
  EXPECT_EQ(again.out, outcome.out);
  EXPECT_EQ(again.err.find("measuring"), std::string::npos) << again.err;
}

#if defined(FACET_CUDA)
// Losses of a run, step by step.
std::vector<double> losses_of(const fs::path& run) {
  std::vector<double> losses;
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);)
    losses.push_back(nlohmann::json::parse(line)["loss"].get<double>());
  return losses;
}
void expect_close(const std::vector<double>& got, const std::vector<double>& want, double tolerance,
                  const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t step = 0; step < want.size(); ++step)
    EXPECT_NEAR(got[step], want[step], tolerance * want[step]) << what << ", step " << step;
}

#if defined(FACET_CUDA_EMULATED)
// Small steps: what rounding does to one grows in the next.
Words on_device(const std::string& method, const std::string& device, const std::string& output) {
  return split(
      "pretrain --width 2 --lr 0.0001 --image-size 8 --data shapes:train=35,size=8 -b 8 "
      "--prototypes 6 --epochs 2 --log-interval 1 --method " +
      method + " --device " + device + " --output " + output);
}

// Shares of the same batches; and what two devices began, one continues.
TEST_F(RunTest, SeveralDevicesGiveTheLossesOfOne) {
  for (const char* method : {"simclr", "supcon", "swav", "supervised"}) {
    const std::string one = path(std::string(method) + "1"), two = path(std::string(method) + "2");
    ASSERT_EQ(run(on_device(method, "cuda", one)).code, 0) << method;
    const Outcome outcome = run(on_device(method, "cuda:1,0", two));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    expect_close(losses_of(two), losses_of(one), 2e-3, method);
    EXPECT_EQ(losses_of(two).size(), 8u);
  }
  const Outcome each = run(joined(on_device("supervised", "cuda:1,0", path("each")),
                                  {"-b", "4", "--batch-per-device", "--epochs", "1"}));
  ASSERT_EQ(each.code, 0) << each.err;
  EXPECT_NE(each.err.find("8 pictures in all, 4 on each of 2"), std::string::npos) << each.err;
  EXPECT_NE(read_file(path("each/config.toml")).find("batch-size = 8\n"), std::string::npos);
  fs::remove(path("simclr2/model.safetensors"));
  fs::remove(path("simclr2/metrics.jsonl"));
  fs::remove(path("simclr2/checkpoints/step-0000000008.safetensors"));
  EXPECT_EQ(run(on_device("simclr", "cuda", path("simclr2"))).code, 0);
}

TEST_F(ResumeTest, OnTwoDevices) {
  expect_resumable(
      [](const std::string& output) { return on_device("simclr", "cuda:0,1", output); });
}

TEST_F(RunTest, AFailureOnOneOfTwoDevicesIsOneLine) {
  const Words command = on_device("simclr", "cuda:0,1", path("run"));
  expect_error(joined(command, {"-b", "9"}), 2, {"--batch-size", "multiple of the 2 devices", "9"});
  for (const char* fault : {"fail_launch=900", "fail_collective=150", "fail_collective=15"}) {
    ::setenv("FACET_EMU_MACHINE", fault, 1);
    expect_error(command, 1, {"the device failed in step", "checkpoints"});
    ::unsetenv("FACET_EMU_MACHINE");
  }
  expect_error(joined(on_device("simclr", "cuda:0,1", path("wild")), {"--lr", "1e30"}), 6,
               {"step", "metrics.jsonl", "checkpoints"});
  const std::string log = read_file(path("wild/metrics.jsonl"));
  const size_t samples = log.find("\"samples\":\"");
  ASSERT_NE(samples, std::string::npos) << log;
  const std::string list = log.substr(samples + 11, log.find('"', samples + 11) - samples - 11);
  EXPECT_EQ(std::count(list.begin(), list.end(), ' '), 7) << list;  // those of both
}
#endif

// Pretraining from scratch, then injection, evaluation and measurement from the same networks.
TEST_F(RunTest, TheStudyOnADeviceGivesTheProcessorsLosses) {
  if (!fs::exists("/usr/share/datasets/fashion-mnist"))
    GTEST_SKIP() << "dataset-fashion-mnist is not installed";
  const auto study = [&](const std::string& device) {
    const Outcome outcome = run(split(
        "reproduce --fast --starts supervised,simclr --per-class 2 --batch-size 10 "
        "--simclr-batch-size 10 --width 4 --image-size 16 --test 10 --task-train 12 --task-test 8 "
        "--threads 1 --supervised-lr 0.002 --simclr-lr 0.002 --inject-lr 0.003 --device " +
        device + " --output " + path(device)));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
  };
  study("cpu");
  for (const char* name : {"supervised", "simclr"}) {
    // From scratch with the same settings. What rounding does to a step grows in the next.
    const Outcome outcome =
        run({"pretrain", "--recipe", path("cpu/") + name + "/config.toml", "--device", "cuda",
             "--output", path(name), "--log-interval", "1"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    expect_close(losses_of(path(name)), losses_of(path("cpu/") + name), 1e-2, name);
    const auto got = losses_of(path(name)), want = losses_of(path("cpu/") + name);
    EXPECT_NEAR(got[0], want[0], 1e-5 * want[0]) << name;
    make_folder(path("cuda"));
    fs::copy(path("cpu/") + name, path("cuda/") + name, fs::copy_options::recursive);
  }
  study("cuda");
  for (const char* name : {"supervised-T1", "supervised-T4", "supervised-Tinf", "simclr-T1",
                           "simclr-T4", "simclr-Tinf"})
    expect_close(losses_of(path("cuda/") + name), losses_of(path("cpu/") + name), 1e-2, name);
  const auto models = [&](const std::string& device) {
    return nlohmann::json::parse(read_file(path(device + "/results.json")))["models"];
  };
  const auto got = models("cuda"), want = models("cpu");
  for (size_t i = 0; i < want.size(); ++i)
    for (const char* key : {"clustering_diversity", "spectral_diversity"})
      EXPECT_NEAR(got[i][key].get<double>(), want[i][key].get<double>(), 1e-3) << key << i;
}
#endif

}  // namespace
}  // namespace facet
