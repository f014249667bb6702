// What the program says and the code it exits with, for good and bad requests and files.
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "tensor/npy.h"
#include "tests/generators.h"
#include "tests/program.h"

namespace facet {
namespace {

namespace fs = std::filesystem;
using CliTest = ProgramTest;

const char* const kFashion = "/usr/share/datasets/fashion-mnist/";

TEST_F(CliTest, HelpAndVersionGoToStdout) {
  for (const char* word : {"--help", "-h", "help"}) {
    const Outcome outcome = run({word});
    EXPECT_EQ(outcome.code, 0);
    EXPECT_NE(outcome.out.find("usage: facet COMMAND"), std::string::npos);
    EXPECT_EQ(outcome.err, "");
  }
  const Outcome version = run({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out.find("facet 0."), 0u) << version.out;
  for (const char* command : {"pretrain", "inject", "finetune", "probe", "knn", "diversity", "cka",
                              "separation", "transfer", "importance", "study", "reproduce"}) {
    const Outcome outcome = run({command, "--help"});
    EXPECT_EQ(outcome.code, 0) << command;
    EXPECT_NE(outcome.out.find("Usage: facet " + std::string(command)), std::string::npos);
  }
}

// Both passes of a row in both types, with twins on the device, and a page without a script error
// to find: every tag that opens is closed.
TEST_F(CliTest, BenchOpsTimesTheTable) {
  const auto bench = [&](const std::string& device, const std::string& rows) {
    return run({"bench", "ops", "--device", device, "--rows", rows, "--small", "--seconds", "0",
                "--dtype", "both", "--json", "--csv", path("ops.csv"), "--html", path("ops.html")});
  };
  std::vector<std::string> devices = {"cpu"};
#if defined(FACET_CUDA)
  devices.push_back("cuda");
#endif
  for (const std::string& device : devices) {
    const Outcome outcome = bench(device, "matmul_nn_7");
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto result = nlohmann::json::parse(outcome.out);
    EXPECT_GT(result["copy_gb_per_s"].get<double>(), 0);
    EXPECT_GT(result["matmul_tflop_per_s"]["bf16"].get<double>(), 0);
    ASSERT_GE(result["rows"].size(), 4u);
    for (const auto& row : result["rows"]) {
      EXPECT_EQ(row["op"], "matmul_nn");
      EXPECT_GT(row["tflop_per_s"].get<double>(), 0);
      EXPECT_GT(row["share"].get<double>(), 0);
      EXPECT_EQ(row["milliseconds"].size() > 1, device == "cuda");
    }
    const std::string csv = read_file(path("ops.csv")), html = read_file(path("ops.html"));
    EXPECT_GE(std::count(csv.begin(), csv.end(), '\n'), 5);
    for (const char* part : {"<svg", "</svg>", "<table", "</table>", "matmul", "</html>"})
      EXPECT_NE(html.find(part), std::string::npos) << part;
  }
  expect_error(split("bench ops --rows nosuch --small --seconds 0"), 2, {"--rows", "nosuch"});
}

TEST_F(CliTest, MistypedWordsGetTheNearestOne) {
  expect_error({"pretran"}, 2, {"pretran", "did you mean 'pretrain'?"});
  expect_error({"--versoin"}, 2, {"--versoin", "did you mean '--version'?"});
  expect_error({"pretrain", "--epoch", "3"}, 2, {"unknown option --epoch", "'--epochs'"});
  expect_error({"pretrain", "--bath-size=3"}, 2, {"--bath-size", "'--batch-size'"});
  expect_error({"bench", "trian"}, 2, {"trian", "'train'"});
  expect_error({"pretrain", "--output", path("r"), "--data", "shaeps"}, 2, {"shaeps", "'shapes'"});
  expect_error({"pretrain", "stray", "--output", path("r")}, 2, {"unexpected argument 'stray'"});
}

TEST_F(CliTest, BadValuesNameTheirOption) {
  expect_error({"pretrain"}, 2, {"--output"});
  expect_error({"pretrain", "--output", path("r"), "--epochs", "many"}, 2, {"--epochs", "many"});
  expect_error({"pretrain", "--output", path("r"), "--epochs", "0"}, 2, {"--epochs", "got 0"});
  expect_error({"pretrain", "--output", path("r"), "--lr", "nan"}, 2, {"--lr", "positive"});
  expect_error({"pretrain", "--output", path("r"), "--method", "byol"}, 2,
               {"--method", "simclr", "moco", "byol"});
  expect_error({"pretrain", "--output", path("r"), "--temperature", "-1"}, 2, {"--temperature"});
  expect_error({"pretrain", "--output", path("r"), "--method", "swav", "--prototypes", "1"}, 2,
               {"prototypes", "1"});
  expect_error({"pretrain", "--output", path("r"), "--method", "moco", "--batch-size", "12"}, 2,
               {"--norm-splits", "12", "--batch-size 16"});
  expect_error({"pretrain", "--output", path("r"), "--method", "moco", "--queue", "100"}, 2,
               {"--queue", "100", "128"});
  const auto pretrain = [&](const Words& more, const Words& expected) {
    Words words = {"pretrain", "--output", path("r"), "--data", "shapes:train=64,size=28"};
    words.insert(words.end(), more.begin(), more.end());
    expect_error(words, 2, expected);
    EXPECT_FALSE(fs::exists(path("r")));
  };
  pretrain({"--method", "mae"}, {"mae", "vit_tiny", "resnet18"});
  pretrain(split("--method mae --arch vit_tiny --patch-size 5"), {"28", "5"});
  pretrain(split("--method supervised -b 9 --cutmix 1"), {"even", "9"});
  pretrain(split("--method supervised -b 8 --aa rand-x9"), {"--aa", "rand-x9"});
  pretrain(split("--method supervised -b 8 --patch-size 4"), {"ViT", "resnet18"});
  pretrain(split("--method dino -b 8 --local-crops 2 --local-size 40"),
           {"--local-size", "28", "40"});
  pretrain(split("--method dino -b 8 --momentum-teacher 2"), {"--momentum-teacher", "2"});
  for (const char* temperature : {"--teacher-temp", "--warmup-teacher-temp", "--base-temperature"})
    pretrain({"--method", "dino", temperature, "0"}, {temperature, "positive", "0"});
  for (const char* ratio : {"0.99", "0", "1e-20", "nan"})
    pretrain({"--method", "mae", "--arch", "vit_tiny", "--patch-size", "14", "--mask-ratio", ratio},
             {"--mask-ratio", "4 patches"});
  expect_error({"reproduce", "--output", path("r"), "--starts", "simclr,byol"}, 2,
               {"--starts", "byol", "swav"});
  expect_error({"reproduce", "--output", path("r"), "--starts", "mae"}, 2, {"--starts", "'mae'"});
  expect_error({"reproduce", "--output", path("r"), "--image-size", "30"}, 2,
               {"30", "patches of 7"});
  EXPECT_FALSE(fs::exists(path("r")));
  pretrain(split("--weight-decay 0 --weight-decay-end 0.4"), {"--weight-decay-end", "0.4"});
  expect_error({"selftest", "--networks", "resnet51"}, 2, {"resnet51", "resnet50"});
  expect_error({"pretrain", "--output", path("r"), "--batch-size"}, 2, {"--batch-size"});
  expect_error({"inject", "--output", path("r"), "--from", path("x"), "--cycle", "0"}, 2,
               {"--cycle", "got '0'"});
  expect_error({"knn"}, 2, {"run's folder", "pixels"});
}

TEST_F(CliTest, RecipesSitBetweenDefaultsAndTheCommandLine) {
  write_file(path("a.toml"), "lr = 0.25\nepochs = 7\nmethod = \"supervised\"\n");
  const Outcome outcome =
      run({"pretrain", "--recipe", path("a.toml"), "--epochs", "9", "--print-config"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  for (const char* line :
       {"lr = 0.25\n", "epochs = 9\n", "method = \"supervised\"\n", "momentum = 0.9\n"})
    EXPECT_NE(outcome.out.find(line), std::string::npos) << line << outcome.out;
  // What is printed is a recipe that prints the same.
  write_file(path("b.toml"), outcome.out);
  EXPECT_EQ(run({"pretrain", "--recipe", path("b.toml"), "--print-config"}).out, outcome.out);
  size_t recipes = 0;
  for (const auto& entry :
       fs::directory_iterator(std::string(FACET_SOURCE_DIR) + "/apps/recipes")) {
    const std::string name = entry.path().stem().string();
    const std::string command = name.starts_with("cli-")        ? "inject"
                                : name.starts_with("finetune-") ? "finetune"
                                                                : "pretrain";
    const Outcome shipped = run({command, "--recipe", entry.path().string(), "--print-config"});
    EXPECT_EQ(shipped.code, 0) << shipped.err;
    ++recipes;
  }
  EXPECT_GE(recipes, 16u);
}

TEST_F(CliTest, BadRecipesNameFileAndLine) {
  write_file(path("a.toml"), "lr = 0.25\nepoch = 7\n");
  expect_error({"pretrain", "--recipe", path("a.toml")}, 3, {"a.toml:2", "'epoch'", "--epochs"});
  write_file(path("a.toml"), "lr = 0.25\n\nepochs = \"x\"\n");
  expect_error({"pretrain", "--recipe", path("a.toml")}, 3, {"a.toml:3", "--epochs", "x"});
  write_file(path("a.toml"), "lr = 0.25\nlr 3\n");
  expect_error({"pretrain", "--recipe", path("a.toml")}, 3, {"a.toml:2"});
  expect_error({"pretrain", "--recipe", path("none.toml")}, 3, {"none.toml"});
  expect_error({"pretrain", "--recipe", "none"}, 2, {"no recipe 'none'", "simclr-fashion-mnist"});
}

TEST_F(CliTest, BadModelsNameTheFile) {
  expect_error({"diversity", path("none")}, 3, {"none"});
  make_folder(path("empty"));
  expect_error({"diversity", path("empty")}, 3, {"empty", "model.safetensors"});
  write_file(path("x.safetensors"), "not a model at all");
  expect_error({"knn", path("x.safetensors")}, 3, {"x.safetensors"});
}

// The files of the golden values; each device prints them.
TEST_F(CliTest, CkaAndSeparationOfNpyFiles) {
  const Tensor x = test::hashed("cka.x", {24, 10});
  Tensor y = test::hashed("cka.y", {24, 6});
  for (int64_t i = 0; i < 24 * 6; ++i) y.data<double>()[i] += x.data<double>()[i / 6 * 10 + i % 6];
  save_npy(path("x.npy"), x);
  save_npy(path("y.npy"), y.reshape({24, 3, 2}));
  Tensor e = test::hashed("sep.e", {20, 7}), labels = Tensor::empty({20}, DType::u8);
  for (int64_t i = 0; i < e.numel(); ++i) e.data<double>()[i] += 0.5;
  const uint8_t last[] = {0, 0, 1, 2};
  for (int64_t i = 0; i < 20; ++i)
    labels.data<uint8_t>()[i] = i < 16 ? static_cast<uint8_t>(i % 4) : last[i - 16];
  save_npy(path("e.npy"), e);
  save_npy(path("labels.npy"), labels);
  const auto number = [&](std::vector<std::string> arguments, const char* key) {
    arguments.push_back("--json");
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out)[key].get<double>();
  };
#if defined(FACET_CUDA_EMULATED)
  for (const char* device : {"cpu", "cuda"}) {
#else
  for (const char* device : {"cpu"}) {
#endif
    const std::vector<std::string> cka = {"cka", path("x.npy"), path("y.npy"), "--device", device};
    EXPECT_NEAR(number(cka, "cka"), 0.578175570653, 1e-9);
    std::vector<std::string> batches = cka;
    batches.insert(batches.end(), {"-b", "8"});
    EXPECT_NEAR(number(batches, "cka"), 0.339642807673, 1e-9);
    batches.back() = "21";  // three rows are left out
    EXPECT_GT(number(batches, "cka"), 0.1);
    const std::vector<std::string> separation = {"separation", path("e.npy"), path("labels.npy"),
                                                 "--device", device};
    EXPECT_NEAR(number(separation, "V_intra"), 0.445094569463, 1e-9);
    EXPECT_NEAR(number(separation, "S_inter"), 0.564365209428, 1e-9);
    EXPECT_NEAR(number(separation, "silhouette"), -0.104143655029, 1e-9);
  }
  test::expect_parts(run({"cka", path("x.npy"), path("y.npy")}).out,
                     {"linear CKA 0.578176 (24 samples)"});
  expect_error({"cka", path("x.npy")}, 2, {"two .npy files"});
  expect_error({"cka", path("x.npy"), path("y.npy"), "-b", "3"}, 2, {"--batch-size", "got 3"});
  expect_error({"cka", path("x.npy"), path("e.npy")}, 3, {"(24, 10)", "(20, 7)"});
  expect_error({"cka", path("x.npy"), path("none.npy")}, 3, {"none.npy"});
  expect_error({"cka", path("x.npy"), path("labels.npy")}, 3, {"(n, ...)"});
  expect_error({"separation", path("e.npy")}, 2, {"features and labels"});
  expect_error({"separation", path("e.npy"), path("x.npy")}, 3, {"x.npy", "integers (20)"});
  expect_error({"separation", path("labels.npy"), path("labels.npy")}, 3, {"floats (N, d)"});
  labels.zero_();
  save_npy(path("labels.npy"), labels);
  expect_error({"separation", path("e.npy"), path("labels.npy")}, 3, {"2 classes"});
  save_npy(path("labels.npy"), Tensor::full({20}, -1.0, DType::i64));
  expect_error({"separation", path("e.npy"), path("labels.npy")}, 3, {"label -1 of row 0"});
}

class CliDeviceTest : public ProgramTest {
 protected:
  void TearDown() override {
    ::unsetenv("FACET_EMU_MACHINE");
    ProgramTest::TearDown();
  }
  std::vector<std::string> training(const std::string& device) const {
    return split(
        "pretrain --method supervised --data shapes:train=32,size=12 --width 4 "
        "--image-size 12 -b 16 --epochs 2 --device " +
        device + " --output " + path("run"));
  }
};

TEST_F(CliDeviceTest, DevicesThatAreNotThere) {
  expect_error(training("gpu"), 2, {"--device", "cuda:N", "'gpu'"});
  expect_error(training("cuda:x"), 2, {"--device", "'cuda:x'"});
#if defined(FACET_CUDA_EMULATED)
  for (const char* device : {"cuda:9", "cuda:0,9"})
    expect_error(training(device), 2, {"cuda:9", "cuda:0 to cuda:1"});
  expect_error(training("cuda:1,1"), 2, {"--device", "cuda:1 is named twice"});
  expect_error(training("cuda:0,"), 2, {"--device", "'cuda:0,'"});
  expect_error(split("bench train --device cuda:0,1"), 2, {"expected one device"});
  ::setenv("FACET_EMU_MACHINE", "devices=0", 1);
  expect_error(training("cuda"), 1, {"no CUDA device", "--device cpu"});
  ::setenv("FACET_EMU_MACHINE", "driver=0", 1);
  expect_error(training("cuda"), 1, {"no CUDA driver", "--device cpu"});
  ::setenv("FACET_EMU_MACHINE", "driver=11040", 1);
  expect_error(training("cuda"), 1, {"driver is too old", "CUDA 11.4", "13.0"});
#endif
}

#if defined(FACET_CUDA)
TEST_F(CliDeviceTest, ChoicesOfKernelsAreChecked) {
  ::setenv("FACET_KERNELS", "fast", 1);
  expect_error(training("cuda"), 2, {"FACET_KERNELS", "vendor or tuned or naive", "'fast'"});
  ::unsetenv("FACET_KERNELS");
  ::setenv("FACET_CONVOLUTION_PLANS", "best", 1);
  expect_error(training("cuda"), 2, {"FACET_CONVOLUTION_PLANS", "first or fastest", "'best'"});
  ::unsetenv("FACET_CONVOLUTION_PLANS");
}
#endif

#if defined(FACET_CUDA_EMULATED)
TEST_F(CliDeviceTest, OnlyTheDeviceThatIsNamedHasToWork) {
  ::setenv("FACET_EMU_MACHINE", "broken_device=0", 1);
  expect_error(training("cuda"), 1, {"cudaErrorDevicesUnavailable"});
  EXPECT_EQ(run(training("cuda:1")).code, 0);
  EXPECT_EQ(run(split("bench train --method supervised --arch resnet18 --stem small --width 4 "
                      "--image-size 12 -b 4 --steps 1 --profile --device cuda:1"))
                .code,
            0);
  fs::remove_all(path("run"));
  ::setenv("FACET_EMU_MACHINE", "kernel_image=0", 1);
  expect_error(training("cuda"), 1,
               {"cuda:0 is emulated device, compute capability 9.0", "code for emulated devices"});
}

TEST_F(CliDeviceTest, TooLittleMemorySaysWhatIsHeld) {
  ::setenv("FACET_EMU_MACHINE", "memory=1000000", 1);
  expect_error(training("cuda"), 5,
               {"out of memory on cuda:0", "asked for", "largest", "--batch-size"});
}

TEST_F(CliDeviceTest, AFailedKernelEndsAnEvaluationInOneLine) {
  ::setenv("FACET_EMU_MACHINE", "fail_launch=0", 1);
  expect_error(split("knn pixels --data shapes:train=20,test=10,size=8 -k 5 --device cuda"), 1,
               {"cudaErrorLaunchFailure", "illegal memory"});
}

TEST_F(CliDeviceTest, AFailedKernelNamesTheLastCheckpoint) {
  // In a step, and while a checkpoint is made.
  for (const char* fault : {"fail_launch=300", "fail_launch=700"}) {
    ::setenv("FACET_EMU_MACHINE", fault, 1);
    expect_error(training("cuda"), 1,
                 {"the device failed in step", "checkpoints", "illegal memory"});
  }
  ::unsetenv("FACET_EMU_MACHINE");
  EXPECT_EQ(run(training("cuda")).code, 0);
}
#endif

// A copy of Fashion-MNIST's folder in which single files can be spoilt.
class CliDataTest : public ProgramTest {
 protected:
  void SetUp() override {
    if (!fs::exists(kFashion)) GTEST_SKIP() << "dataset-fashion-mnist is not installed";
    make_folder(folder_ / "data");
    for (const char* name : kFiles) fs::create_symlink(kFashion + std::string(name), file(name));
  }
  fs::path file(const std::string& name) const { return folder_ / "data" / name; }
  void replace(const std::string& name, const std::string& content) {
    fs::remove(file(name));
    write_file(file(name), content);
  }
  void expect_refused(const std::vector<std::string>& words) {
    expect_error({"pretrain", "--method", "supervised", "--epochs", "1", "--output", path("run"),
                  "--data", "fashion-mnist:" + path("data")},
                 3, words);
  }
  static constexpr const char* kFiles[] = {
      "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz",
      "t10k-labels-idx1-ubyte.gz"};
};

TEST_F(CliDataTest, TruncatedFile) {
  replace(kFiles[0], read_file(kFashion + std::string(kFiles[0])).substr(0, 100'000));
  expect_refused({"train-images-idx3-ubyte.gz"});
}

TEST_F(CliDataTest, SwappedFiles) {
  fs::rename(file(kFiles[0]), file("x"));
  fs::rename(file(kFiles[1]), file(kFiles[0]));
  fs::rename(file("x"), file(kFiles[1]));
  expect_refused({"idx"});
}

TEST_F(CliDataTest, SwappedSplits) {
  fs::rename(file(kFiles[1]), file("x"));
  fs::rename(file(kFiles[3]), file(kFiles[1]));
  expect_refused({"10000", "60000"});
}

TEST_F(CliDataTest, MissingFolderAndFile) {
  fs::remove(file(kFiles[1]));
  expect_refused({"train-labels"});
  fs::remove_all(folder_ / "data");
  expect_refused({"data"});
}

TEST_F(CliDataTest, WrongCifarSize) {
  make_folder(path("cifar-10-batches-bin"));
  for (const char* name : {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                           "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"})
    write_file(path("cifar-10-batches-bin/" + std::string(name)), std::string(3072, '\0'));
  write_file(path("cifar-10-batches-bin/batches.meta.txt"), "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
  expect_error(
      {"pretrain", "--output", path("run"), "--data", "cifar10:" + path("cifar-10-batches-bin")}, 3,
      {".bin", "3072"});
}

// A run whose loss goes where `loss` says; its last quarter's mean collapse value is ln 64.
std::string records(const std::function<double(int)>& loss, double spread) {
  std::string text;
  for (int i = 1; i <= 20; ++i)
    text += nlohmann::json({{"step", i},
                            {"loss", loss(i)},
                            {"collapse_loss", std::log(64.0) + .01 * (i - 18)},
                            {"embedding_std", spread},
                            {"effective_rank", spread > 0 ? 20.0 : 0.0},
                            {"wait_share", 0.5}})
                .dump() +
            "\n";
  return text;
}

TEST_F(CliTest, TheDoctorNamesWhatIsWrong) {
  const auto write_run = [&](const std::string& name, const std::string& config,
                             const std::string& lines) {
    fs::create_directories(path(name));
    write_file(path(name) + "/config.toml", config);
    write_file(path(name) + "/metrics.jsonl", lines);
    return path(name);
  };
  const std::string swav = "method = \"swav\"\nbatch-size = 64\nqueue = -1\nfreeze-steps = 5\n";
  const auto falling = [](int i) { return std::log(64.0) - 0.1 * i; };
  const Outcome well = run({"doctor", write_run("well", swav, records(falling, 0.08))});
  EXPECT_EQ(well.code, 0) << well.out << well.err;
  test::expect_parts(well.out, {"nothing learned would be 4.1589", "--workers"});

  const auto still = [](int i) { return std::log(64.0) + 1e-3 * i; };
  const Outcome collapsed = run({"doctor", write_run("flat", swav, records(still, 0)), "--json"});
  EXPECT_EQ(collapsed.code, 1);
  const auto findings = nlohmann::json::parse(collapsed.out)["findings"];
  EXPECT_EQ(findings[0]["level"], "error");
  EXPECT_NE(findings[0]["advice"].get<std::string>().find("--queue"), std::string::npos);
  EXPECT_EQ(findings[1]["level"], "error");

  const std::string bad = R"({"step": 7, "loss": null, "error": "loss is nan at step 7"})";
  const Outcome broken = run({"doctor", write_run("nan", "method = \"dino\"\n", bad + "\n")});
  EXPECT_EQ(broken.code, 1);
  EXPECT_NE(broken.out.find("loss is nan at step 7"), std::string::npos) << broken.out;
  // A step that was skipped is no failure of the run.
  const Outcome skipped =
      run({"doctor", write_run("skipped", swav, bad + "\n" + records(falling, 0.08))});
  EXPECT_EQ(skipped.code, 0) << skipped.out;
  test::expect_parts(skipped.out, {"loss is nan at step 7; the run went on"});
  expect_error({"doctor", path("none")}, 3, {"none", "config.toml"});
}

TEST_F(CliTest, SelftestComparesWithTheOfficialCodes) {
  const Outcome outcome = run(split("selftest --networks dino_vit_base --precision f32 --json"));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const auto result = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(result.size(), 9u);
  for (const auto& [name, value] : result.items()) {
    EXPECT_TRUE(value["pass"].get<bool>()) << name;
    EXPECT_NE(value["got"].get<double>(), value["want"].get<double>()) << "in f32: " << name;
  }
}

}  // namespace
}  // namespace facet
