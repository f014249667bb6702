// Runs of the program that are killed, stopped, short of disk or not finite: nothing that was saved
// is lost, and what goes on ends as if nothing had been.
#include <sys/resource.h>

#include <csignal>
#include <ctime>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/program.h"

namespace facet {
namespace {

namespace fs = std::filesystem;
using KillTest = ProgramTest;

Words tiny(const std::string& output, const Words& more = {}) {
  return joined(split("pretrain --method supervised --data shapes:train=64,size=16 --width 4 "
                      "--image-size 16 --batch-size 16 --epochs 10 --threads 1 --model-ema "
                      "--output " +
                      output),
                more);
}

void expect_same_models(const fs::path& a, const fs::path& b) {
  for (const char* file : {"model.safetensors", "model-ema.safetensors"})
    expect_same_weights(a / file, b / file);
}

void sleep_ms(double ms) {
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ms));
}

// Killed at random moments, start-up, steps and saves alike, until 50 kills have hit; runs that end
// in between are compared and begun anew.
TEST_F(KillTest, FiftyKillsLoseNothing) {
  ASSERT_EQ(run(tiny(path("straight"))).code, 0);
  std::mt19937 random(7);
  std::uniform_real_distribution<double> moment(20, 250);
  int kills = 0, runs = 0;
  std::string folder;
  const auto command = [&] { return tiny(folder, {"--checkpoint-seconds", "0"}); };
  for (int i = 0; kills < 50 && i < 500; ++i) {
    if (folder.empty()) folder = path(fmt::format("run{}", runs++));
    const pid_t pid = start(command());
    sleep_ms(moment(random));
    ::kill(pid, SIGKILL);
    const Outcome outcome = finish(pid);
    if (outcome.code == 128 + SIGKILL) {
      ++kills;
      continue;
    }
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    expect_same_models(path("straight"), folder);
    folder.clear();
  }
  EXPECT_EQ(kills, 50);
  if (folder.empty()) folder = path("last");
  const Outcome last = run(command());
  ASSERT_EQ(last.code, 0) << last.err;
  expect_same_models(path("straight"), folder);
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
}

TEST_F(KillTest, SignalsAndTheTimeLimitSaveAndStop) {
  std::signal(SIGHUP, SIG_DFL);  // as without nohup
  ASSERT_EQ(run(tiny(path("straight"))).code, 0);
  const auto expect_continued = [&](const std::string& folder, const Outcome& stopped) {
    EXPECT_EQ(stopped.code, 75) << stopped.err;
    EXPECT_NE(stopped.err.find("run the same command again"), std::string::npos) << stopped.err;
    EXPECT_TRUE(fs::exists(folder + "/checkpoints/latest"));
    ASSERT_EQ(run(tiny(folder)).code, 0);
    expect_same_models(path("straight"), folder);
  };
  for (const int signal : {SIGTERM, SIGUSR1, SIGHUP}) {
    // Slow enough to be met in the middle: a checkpoint a step.
    const std::string folder = path(fmt::format("signal{}", signal));
    const pid_t pid = start(tiny(folder, {"--checkpoint-seconds", "0"}));
    while (!fs::exists(folder + "/checkpoints/latest")) sleep_ms(2);
    ::kill(pid, signal);
    expect_continued(folder, finish(pid));
  }
  const pid_t waiting =
      start(tiny(path("waits"), {"--checkpoint-seconds", "0", "--on-preempt", "wait"}));
  while (!fs::exists(path("waits/checkpoints/latest"))) sleep_ms(2);
  ::kill(waiting, SIGTERM);
  for (int i = 0; i < 9999 && read_file(path(".err")).find("waiting to") == std::string::npos; ++i)
    sleep_ms(2);
  ::kill(waiting, SIGKILL);
  EXPECT_EQ(finish(waiting).code, 128 + SIGKILL);
  ASSERT_EQ(run(tiny(path("waits"))).code, 0);
  expect_same_models(path("straight"), path("waits"));
  expect_continued(path("limit"), run(tiny(path("limit"), {"--max-seconds", "0.001"})));
  // The end of the job, less what saving takes.
  ::setenv("SLURM_JOB_END_TIME", std::to_string(std::time(nullptr) + 4).c_str(), 1);
  const Outcome stopped = run(tiny(path("job"))), measuring = run({"knn", path("straight")});
  EXPECT_EQ(measuring.code, 75) << measuring.err;
  EXPECT_NE(measuring.err.find("the end of the job"), std::string::npos) << measuring.err;
  ::setenv("SLURM_JOB_END_TIME", "soon", 1);
  expect_continued(path("job"), stopped);
  EXPECT_NE(run(tiny(path("other"))).err.find("got 'soon'"), std::string::npos);
  ::setenv("SLURM_JOB_END_TIME", std::to_string(std::time(nullptr) + 3600).c_str(), 1);
  EXPECT_EQ(run(tiny(path("long"))).code, 0);
  ::unsetenv("SLURM_JOB_END_TIME");

  // The second SIGINT waits for nothing: here for no end of a long step.
  Words slow = tiny(path("slow"));
  for (std::string& word : slow) {
    if (word == "shapes:train=64,size=16") word = "shapes:train=512,size=64";
    if (word == "4") word = "32";
  }
  slow.insert(slow.end(), {"--image-size", "64", "--batch-size", "256"});
  const pid_t pid = start(slow);
  while (!fs::exists(path("slow") + "/sessions.jsonl")) sleep_ms(2);
  sleep_ms(300);  // before its first step it would stop at once; that takes seconds
  ::kill(pid, SIGINT);
  sleep_ms(20);
  ::kill(pid, SIGINT);
  EXPECT_EQ(finish(pid).code, 130);
}

// No file may grow beyond 16 KiB: checkpoints fail, training goes on, the end says so.
TEST_F(KillTest, AFullDiskCostsNoGoodState) {
  ASSERT_EQ(run(tiny(path("straight"))).code, 0);
  const Outcome stopped = run(tiny(path("run"), {"--max-seconds", "0.001"}));
  ASSERT_EQ(stopped.code, 75);
  const std::string latest = read_file(path("run/checkpoints/latest"));
  struct rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const struct rlimit small = {16 << 10, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Outcome full = run(tiny(path("run"), {"--checkpoint-seconds", "0"}));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(full.code, 3) << full.err;
  test::expect_parts(full.err, {"training goes on", "error: cannot"});
  EXPECT_EQ(read_file(path("run/checkpoints/latest")), latest);
  ASSERT_EQ(run(tiny(path("run"))).code, 0);
  expect_same_models(path("straight"), path("run"));
}

TEST_F(KillTest, AStateThatIsNotFiniteIsSetAside) {
  expect_error(tiny(path("run"), {"--lr", "1e300", "--checkpoint-seconds", "0"}), 6,
               {"NaN", "crash-0000000001"});
  EXPECT_TRUE(fs::exists(path("run/checkpoints/crash-0000000001.safetensors")));
  EXPECT_FALSE(fs::exists(path("run/checkpoints/latest")));
  EXPECT_FALSE(fs::exists(path("run/model.safetensors")));
}

TEST_F(KillTest, OtherPicturesAreNotGoneOnWith) {
  const auto fashion = [&](const std::string& data) {
    Words words = tiny(path("run"), {"--max-seconds", "0.001"});
    words[4] = data;
    return words;
  };
  // The same words, another content: a folder whose files change.
  const fs::path original = "/usr/share/datasets/fashion-mnist";
  if (!fs::exists(original)) GTEST_SKIP() << "dataset-fashion-mnist is not installed";
  make_folder(path("data"));
  for (const char* part : {"images-idx3", "labels-idx1"})
    fs::create_symlink(original / fmt::format("t10k-{}-ubyte.gz", part),
                       path("data") + fmt::format("/train-{}-ubyte.gz", part));
  const Outcome first = run(fashion("fashion-mnist:" + path("data") + ",check=off"));
  ASSERT_EQ(first.code, 75) << first.err;
  for (const char* part : {"images-idx3", "labels-idx1"}) {
    const std::string link = path("data") + fmt::format("/train-{}-ubyte.gz", part);
    fs::remove(link);
    fs::create_symlink(original / fmt::format("train-{}-ubyte.gz", part), link);
  }
  expect_error(fashion("fashion-mnist:" + path("data") + ",check=off"), 3, {"others", "--output"});
}

}  // namespace
}  // namespace facet
