// facet dataset, and how the other commands read datasets of files.
#include <nlohmann/json.hpp>

#include "data/picture.h"
#include "data/png.h"
#include "tensor/check.h"
#include "tests/pictures.h"
#include "tests/program.h"

namespace facet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class DatasetCli : public ProgramTest {
 protected:
  // Two classes that are easy to tell apart; one picture is a JPEG by name only.
  void SetUp() override {
    for (const std::string part : {"train", "val"})
      for (int i = 0; i < 12; ++i) {
        picture(fmt::format("tree/{}/bright/{}.jpg", part, i), 200 + i);
        picture(fmt::format("tree/{}/dark/{}.png", part, i), 20 + i);
      }
  }
  void picture(const std::string& name, int grey) {
    Image image(20, 24);
    for (size_t i = 0; i < image.pixels.size(); ++i)
      image.pixels[i] = static_cast<uint8_t>(grey + static_cast<int>(i) % 7);
    make_folder(fs::path(path(name)).parent_path());
    write_file(path(name), encode_png(image));
  }
  void cut(const std::string& name) { fs::resize_file(path(name), 60); }
  std::string tree() const { return "folder:" + path("tree"); }

  Outcome pretrain(const std::string& output, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {
        "pretrain",   "--method", "supervised", "--data",         tree(), "--output",
        path(output), "--width",  "8",          "--image-size",   "16",   "--batch-size",
        "6",          "--epochs", "2",          "--log-interval", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
};

TEST_F(DatasetCli, VerifyCountsKindsAndNamesWhatIsBad) {
  const Outcome good = run({"dataset", "verify", tree(), "--json"});
  EXPECT_EQ(good.code, 0) << good.err;
  const json result = json::parse(good.out);
  EXPECT_EQ(result["train"]["kinds"]["PNG"], 24);
  EXPECT_EQ(result["test"]["bad"].size(), 0u);
  EXPECT_EQ(result["train"]["fingerprint"].get<std::string>().size(), 64u);
  cut("tree/val/dark/3.png");
  const Outcome bad = run({"dataset", "verify", tree()});
  EXPECT_EQ(bad.code, 4);
  EXPECT_NE(bad.out.find("val/dark/3.png (class 'dark')"), std::string::npos) << bad.out;
  EXPECT_NE(bad.err.find("1 pictures cannot be decoded"), std::string::npos) << bad.err;
  const Outcome isolated = run({"dataset", "verify", tree(), "--isolate"});
  EXPECT_EQ(isolated.code, 4);
  EXPECT_EQ(isolated.out, bad.out);
  EXPECT_EQ(run({"dataset", "verify", tree() + "x"}).code, 3);
  EXPECT_EQ(run({"dataset", "verfy", tree()}).code, 2);
}

TEST_F(DatasetCli, StatsTellCountsSizesAndColours) {
  const Outcome outcome = run({"dataset", "stats", tree(), "--json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const json train = json::parse(outcome.out)["train"];
  EXPECT_EQ(train["per_class"], json({12, 12, 12}));
  EXPECT_EQ(train["width"], json({24, 24, 24}));
  EXPECT_NEAR(train["mean"][0].get<double>(), (110 + 5.5 + 3) / 255, 0.002);
}

TEST_F(DatasetCli, PreviewShowsTheViews) {
  const Outcome outcome = run({"dataset", "preview", tree(), "--method", "moco", "--image-size",
                               "32", "--rows", "3", "-o", path("sheet.png")});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const std::string bytes = read_file(path("sheet.png"));
  const Image sheet = EncodedPicture({bytes.begin(), bytes.end()}, "sheet.png").decode();
  EXPECT_EQ(sheet.width, 3 * 32 + 2 * 2);
  EXPECT_EQ(sheet.height, 3 * 32 + 2 * 2);
  EXPECT_EQ(sheet.at(33, 0)[0], 255);         // between the rows
  EXPECT_GT(sheet.at(0, 0)[0], 190);          // the first picture is bright
  EXPECT_LT(sheet.at(2 * 34 + 5, 5)[0], 60);  // the last is dark
}

TEST_F(DatasetCli, BadSamplesAreCountedAndSurviveAResume) {
  cut("tree/train/dark/3.png");
  const Outcome failed = pretrain("failed");
  EXPECT_EQ(failed.code, 3);
  test::expect_parts(failed.err, {"train/dark/3.png (class 'dark')", "sha256"});
  EXPECT_EQ(json::parse(run({"dataset", "stats", tree(), "--json"}).out)["train"]["bad"], 1);
  const Outcome skipped = pretrain("skipped", {"--on-bad-sample", "skip"});
  ASSERT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_NE(skipped.err.find("warning"), std::string::npos) << skipped.err;
  EXPECT_NE(read_file(path("skipped/metrics.jsonl")).find("\"bad_samples\":1"), std::string::npos);
  ASSERT_EQ(pretrain("again", {"--on-bad-sample", "skip", "--workers", "3"}).code, 0);
  const auto weights = [&](const std::string& name) {
    const std::string file = read_file(path(name) + "/model.safetensors");
    return file.substr(file.size() - 4000);
  };
  EXPECT_EQ(weights("skipped"), weights("again"));

  // A bad test picture counts as wrong.
  cut("tree/val/dark/3.png");
  EXPECT_EQ(run({"knn", path("skipped"), "--data", tree(), "-k", "3"}).code, 3);
  const Outcome knn = run(
      {"knn", path("skipped"), "--data", tree(), "-k", "3", "--on-bad-sample", "skip", "--json"});
  ASSERT_EQ(knn.code, 0) << knn.err;
  const json result = json::parse(knn.out);
  EXPECT_EQ(result["bad"], 1);
  EXPECT_EQ(result["test"], 24);
  EXPECT_LE(result["percent"].get<double>(), 100.0 * 23 / 24 + 1e-9);
}

TEST_F(DatasetCli, TooManyBadSamplesEndTheRun) {
  for (int i = 0; i < 11; ++i) cut(fmt::format("tree/train/dark/{}.png", i));
  const Outcome outcome = pretrain("run", {"--on-bad-sample", "skip", "--epochs", "20"});
  EXPECT_EQ(outcome.code, 3);
  test::expect_parts(outcome.err, {"11 samples cannot be decoded, at most 10"});
}

TEST_F(DatasetCli, ANetworksClassesMustBeTheDatasets) {
  ASSERT_EQ(pretrain("run").code, 0);
  const Outcome same = run({"probe", path("run"), "--data", tree(), "--own", "--json"});
  ASSERT_EQ(same.code, 0) << same.err;
  EXPECT_GE(json::parse(same.out)["percent"].get<double>(), 0);
  // The same folders by other names: the order of the classes changes.
  fs::rename(path("tree/train/bright"), path("tree/train/sunny"));
  fs::rename(path("tree/val/bright"), path("tree/val/sunny"));
  const Outcome other = run({"probe", path("run"), "--data", tree(), "--own"});
  EXPECT_EQ(other.code, 3);
  test::expect_parts(other.err, {"class 0 is 'bright' there and 'dark' here"});
  // Features alone know no classes.
  EXPECT_EQ(run({"knn", path("run"), "--data", tree(), "-k", "3"}).code, 0);
}

TEST_F(DatasetCli, ACacheStandsInForTheFiles) {
  cut("tree/train/dark/5.png");
  EXPECT_EQ(run({"dataset", "cache", tree(), "-o", path("cache")}).code, 3);
  const Outcome skipped =
      run({"dataset", "cache", tree(), "-o", path("cache"), "--on-bad-sample", "skip"});
  EXPECT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_NE(skipped.out.find("24 pictures, 1 of them bad"), std::string::npos) << skipped.out;
  picture("tree/train/dark/5.png", 25);
  const Outcome made = run({"dataset", "cache", tree(), "-o", path("cache"), "--size", "16"});
  ASSERT_EQ(made.code, 0) << made.err;
  fs::remove(path("tree/train/dark/3.png"));
  picture("tree/train/dark/3.png", 99);  // not what the cache shows
  const Outcome verified = run({"dataset", "verify", tree(), "--cache", path("cache"), "--json"});
  EXPECT_EQ(verified.code, 0) << verified.err;
  EXPECT_EQ(json::parse(verified.out)["train"]["kinds"]["other"], 24);
  const Outcome trained = pretrain("run", {"--cache", path("cache")});
  EXPECT_EQ(trained.code, 0) << trained.err;
  EXPECT_NE(trained.err.find("from a cache"), std::string::npos) << trained.err;
}

}  // namespace
}  // namespace facet
