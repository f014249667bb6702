// The commands that measure and compare: tables, transfer, importance, networks' CKA and
// separation, the paper's tables, and a study of checkpoints that somebody brings.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/model.h"
#include "apps/table.h"
#include "metrics/correlation.h"
#include "metrics/importance.h"
#include "nn/init.h"
#include "tensor/npy.h"
#include "tests/generators.h"
#include "tests/program.h"

namespace facet {
namespace {

namespace fs = std::filesystem;
using Parsed = nlohmann::ordered_json;

class StudyTest : public ProgramTest {
 protected:
  Parsed json(Words words) {
    words.emplace_back("--json");
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return Parsed::parse(outcome.out, nullptr, false);
  }
  // An untrained network under `name`; `spoil` changes its weights before.
  void network(const std::string& name, uint64_t seed, bool vit = false,
               const std::function<void(Module&)>& spoil = {}) {
    NetworkOptions options{.arch = vit ? "vit_tiny" : "resnet18", .image_size = 16};
    options.width = vit ? 16 : 4;
    if (vit) options.patch_size = 4, options.depth = 3, options.heads = 2;
    const auto encoder = make_encoder(options.resolve());
    initialize(*encoder, seed);  // a ResNet
    encoder->initialize(seed);   // a ViT
    if (spoil) spoil(*encoder);
    save_network(path(name + ".safetensors"), *encoder, {}, {},
                 {{"facet.image_size", "16"}, {"facet.data", "shapes"}});
  }
  void write(const std::string& name, const std::string& text) { write_file(path(name), text); }
};

const char* const kPictures = "shapes:train=40,test=40,size=16";

using TableFile = test::FolderTest;

TEST_F(TableFile, QuotesLinesAndMistakes) {
  const auto load = [&](const std::string& text) {
    write_file(folder_ / "table", text);
    return Table::load(folder_ / "table");
  };
  const Table table = load("\xEF\xBB\xBFname,\"a, b\",c\r\n\"x \"\"y\"\"\",1.5,-2e3\r\n\r\nz,3,4");
  EXPECT_EQ(table.columns, (Words{"name", "a, b", "c"}));
  EXPECT_EQ(table.rows[0][0], "x \"y\"");
  EXPECT_EQ(table.numbers("c"), (std::vector<double>{-2000, 4}));
  EXPECT_EQ(table.csv(), "name,\"a, b\",c\n\"x \"\"y\"\"\",1.5,-2e3\nz,3,4\n");
  EXPECT_EQ(table.text(), "name   a, b     c\nx \"y\"   1.5  -2e3\nz         3     4\n");
  for (const auto& [text, part] :
       {std::pair{"m,a\nx,1,2\n", ":2: expected 2 cells"},
        {"m,a\nx,\n", "row 'x', column 'a': expected a number, got an empty cell"},
        {"m,a\nx,nan\n", "got 'nan'"},
        {"m,a\nx,1 \n", "got '1 '"},
        {"m,a\nx,1\n\nx,2\n", ":4: a second row 'x'"},
        {"m,a,a\nx,1,2\n", "two columns are called 'a'"},
        {"m,a\n", "rows below"},
        {"m,\"a\nx,1\n", "never closed"}}) {
    SCOPED_TRACE(text);
    test::expect_parts(test::error_of<FileError>([&, text = text] {
                         const Table wrong = load(text);
                         for (size_t i = 1; i < wrong.columns.size(); ++i)
                           (void)wrong.numbers(wrong.columns[i]);
                       }),
                       {part});
  }
  test::expect_parts(test::error_of<FileError>([&] { (void)table.column("a,b"); }),
                     {"did you mean 'a, b'"});
}

// An interval of a mean is that of the normal law; what is never finite has none.
TEST(Bootstrap, IntervalsCoverAndRepeat) {
  std::vector<double> x;
  for (int i = 0; i < 200; ++i) x.push_back(std::sin(i * i));
  double mean = 0.0, squares = 0.0;
  for (const double v : x) mean += v / 200;
  for (const double v : x) squares += (v - mean) * (v - mean) / 200;
  const auto statistic = [&](std::span<const size_t> rows) {
    double sum = 0.0;
    for (const size_t i : rows) sum += x[i];
    return sum / static_cast<double>(rows.size());
  };
  const Interval interval = bootstrap_interval(200, statistic, 1);
  const double half = 1.96 * std::sqrt(squares / 200);
  EXPECT_NEAR(interval.low, mean - half, 0.1 * half);
  EXPECT_NEAR(interval.high, mean + half, 0.1 * half);
  EXPECT_EQ(bootstrap_interval(200, statistic, 1).low, interval.low);
  EXPECT_NE(bootstrap_interval(200, statistic, 2).low, interval.low);
  EXPECT_TRUE(std::isnan(bootstrap_interval(5, [](auto) { return NAN; }).low));
}

TEST(Importance, GoesToTheFactorsThatTell) {
  std::vector<double> x, y;
  for (int i = 0; i < 60; ++i) {
    const double a = std::sin(i * i), b = std::cos(3 * i), noise = std::sin(7 * i * i + 1);
    x.insert(x.end(), {a, noise, b, 4.0});
    y.push_back(2 * a + 0.7 * b);
  }
  const std::vector<double> share = factor_importance(x, y);
  EXPECT_NEAR(share[0] + share[1] + share[2], 1.0, 1e-6);
  EXPECT_EQ(share[3], 0.0);  // constant
  EXPECT_GT(share[0], share[2]);
  EXPECT_GT(share[2], 2 * share[1]);
  EXPECT_EQ(factor_importance(x, y), share);
  // A single split: all gain is the factor's that orders the targets.
  const std::vector<double> two = {0, 5, 1, 6, 0, 8, 1, 7}, target = {-1, 1, -1, 1};
  EXPECT_EQ(factor_importance(two, target, {.trees = 1, .depth = 1}), (std::vector<double>{1, 0}));
  EXPECT_THROW(factor_importance(x, std::vector<double>(60, 2.0)), Error);
  y[3] = NAN;
  EXPECT_THROW(factor_importance(x, y), Error);
}

TEST_F(StudyTest, TransferOfATable) {
  // Odds 1 and 9, 3 and 1.
  write("t.csv", "model,a,b,note\nfirst,50,75,-1\nsecond,90,50,-2\n");
  const auto result = json({"transfer", path("t.csv"), "--datasets", "a,b"});
  const double a = 0.5 * std::log(9.0), b = 0.5 * std::log(3.0);
  EXPECT_NEAR(result["models"][0]["transfer"].get<double>(), 0.5 * (b - a), 1e-14);
  EXPECT_NEAR(result["models"][1]["standard_error"].get<double>(), a + b, 1e-14);
  const Outcome csv = run({"transfer", path("t.csv"), "--datasets", "a,b", "--csv"});
  EXPECT_EQ(csv.out.find("model,transfer,standard error\nfirst,-0.27465"), 0u) << csv.out;
  test::expect_parts(run({"transfer", path("t.csv"), "--datasets", "a"}).out, {"1.0986"});
  // An accuracy of 100% needs the number of pictures behind it.
  write("full.csv", "model,a\nx,100\ny,50\n");
  expect_error({"transfer", path("full.csv")}, 3, {"row 'x', column 'a'", "--test-counts"});
  EXPECT_NEAR(json({"transfer", path("full.csv"), "--test-counts", "50"})["models"][0]["transfer"]
                  .get<double>(),
              0.5 * std::log(99.0), 1e-12);

  expect_error({"transfer"}, 2, {".csv"});
  expect_error({"transfer", path("none.csv")}, 3, {"none.csv"});
  expect_error({"transfer", path("t.csv")}, 3, {"column 'note'", "got -1", "--datasets"});
  expect_error({"transfer", path("t.csv"), "--datasets", "a,c"}, 3, {"no column 'c'"});
  expect_error({"transfer", path("t.csv"), "--datasets", "a,b", "--test-counts", "50"}, 2,
               {"--test-counts", "2 datasets, got 1"});
  expect_error({"transfer", path("t.csv"), "--datasets", "a", "--test-counts", "x"}, 2, {"'x'"});
  // Models without common datasets.
  write("gaps.csv", "model,a,b\nx,50,\ny,,60\n");
  expect_error({"transfer", path("gaps.csv")}, 3, {"row 'x', column 'b'", "empty cell"});
  write("one.csv", "model,a\nx,50\n");
  expect_error({"transfer", path("one.csv")}, 3, {"one.csv", "2 rows"});
}

TEST_F(StudyTest, ImportanceOfATable) {
  std::string table = "model,tells,constant,target\n";
  for (int i = 0; i < 20; ++i)
    table += fmt::format("m{},{},3,{}\n", i, std::sin(i), std::exp(std::sin(i)));
  write("t.csv", table);
  const auto factors = json({"importance", path("t.csv"), "--target", "target"})["factors"];
  EXPECT_EQ(factors[0]["importance"], 1.0);
  EXPECT_EQ(factors[0]["spearman"], 1.0);
  EXPECT_EQ(factors[1]["importance"], 0.0);
  EXPECT_TRUE(factors[1]["pearson"].is_null());
  const Outcome csv = run({"importance", path("t.csv"), "--target", "target", "--csv"});
  EXPECT_NE(csv.out.find("constant,0,,,,\n"), std::string::npos) << csv.out;
  expect_error({"importance", path("t.csv")}, 2, {"--target"});
  expect_error({"importance", path("t.csv"), "--target", "tagret"}, 3, {"did you mean 'target'"});
  expect_error({"importance", path("t.csv"), "--target", "constant"}, 1, {"constant?"});
}

// What follows from the paper's own tables: section 5.2, Table 1, Figures 8 and 14.
TEST_F(StudyTest, ThePapersTables) {
  const auto paper = json({"reproduce", "paper"});
  for (const auto& [table, agreement, largest] :
       {std::tuple{"7", 0.9998, 0.029}, {"9", 0.9995, 3.3}}) {
    std::vector<double> printed, ours;
    double difference = 0.0;
    for (const auto& row : paper["transfer"][table]["rows"]) {
      printed.push_back(row["printed"]);
      ours.push_back(row["recomputed"]);
      difference = std::max(difference, std::abs(printed.back() - ours.back()));
    }
    ASSERT_EQ(printed.size(), 39u);
    EXPECT_NEAR(pearson(printed, ours), agreement, 5e-5);
    EXPECT_NEAR(difference, largest, 0.015 * largest);
  }
  EXPECT_NEAR(paper["transfer"]["8"]["offset"].get<double>(), 0.018, 2e-3);
  const double want[6][3] = {{0.57, 0.76, 0.41}, {0.93, 0.91, 0.78}, {0.91, 0.93, 0.75},
                             {0.74, 0.84, 0.56}, {0.90, 0.82, 0.74}, {0.92, 0.90, 0.76}};
  ASSERT_EQ(paper["correlations"].size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    const auto& row = paper["correlations"][i];
    EXPECT_EQ(row["protocol"], i < 3 ? "linear" : "finetune");
    EXPECT_NEAR(row["spearman"].get<double>(), want[i][0], 5e-3) << i;
    EXPECT_NEAR(row["pearson"].get<double>(), want[i][1], 5e-3) << i;
    EXPECT_NEAR(row["kendall"].get<double>(), want[i][2], 5e-3) << i;
    EXPECT_NEAR(row["printed"]["spearman"].get<double>(), want[i][0], 0.025) << i;
  }
  ASSERT_EQ(paper["importances"].size(), 8u);
  for (const auto& row : paper["importances"]) {
    double sum = 0.0, largest = 0.0;
    for (const auto& [factor, share] : row["factors"].items()) {
      sum += share.get<double>();
      if (factor != "CIS") largest = std::max(largest, share.get<double>());
    }
    EXPECT_NEAR(sum, 1.0, 1e-6);
    // Figure 8 shows CIS first for both diversities. With the printed factors of 39 models it comes
    // third for fine-tuning and spectral diversity, just behind silhouette and separation.
    if (row["combined"] == true) {
      const bool first = row["protocol"] == "linear" || row["diversity"] == "clustering";
      EXPECT_EQ(row["factors"]["CIS"].get<double>() > largest, first) << row.dump();
    }
  }

  const auto found = [&](const std::string& table, const std::string& row,
                         const std::string& column, const std::string& why) {
    return std::any_of(
        paper["inconsistencies"].begin(), paper["inconsistencies"].end(), [&](const Parsed& cell) {
          return cell["table"] == table && cell["row"] == row && cell["column"] == column &&
                 cell["why"].get<std::string>().find(why) != std::string::npos;
        });
  };
  EXPECT_TRUE(found("Table 8", "DINO (T=3)", "Transfer", "Caltech of 93.2 instead of 89.3"));
  EXPECT_TRUE(found("Table 9", "SimCLR (T=4)", "Transfer", "Dogs of 82."));
  EXPECT_TRUE(found("Table 9", "SwAV (T=3)", "Transfer", "Flowers of 89."));
  EXPECT_TRUE(found("Table 3", "SimCLR (T=4)", "Dogs", "Table 9 prints 88.2"));
  EXPECT_TRUE(found("Table 3", "DINO (T=4)", "DTD", "73.8"));
  EXPECT_TRUE(found("Table 5", "DINO", "Cars", "of Table 4"));
  EXPECT_TRUE(found("Table 5", "DINO (T=4)", "Flowers", "94.6"));
  EXPECT_TRUE(found("Table 6", "MoCo-v2", "ImNet", "61.9 in Table 3"));
  EXPECT_TRUE(found("Table 6", "SwAV", "ImNet", "64.2 in Table 4"));
  EXPECT_TRUE(found("Table 8", "MAE (T=100)", "ImNet", "74.2"));
  EXPECT_TRUE(found("Table 2", "ImNet", "Test", "50000"));
  EXPECT_TRUE(found("Table 1", "ImNet", "linear R2", "0.53"));
  EXPECT_EQ(std::count_if(paper["inconsistencies"].begin(), paper["inconsistencies"].end(),
                          [](const Parsed& cell) { return cell["column"] == "Inter"; }),
            32);
  // Nothing of Table 7: its Transfer follows from its cells.
  EXPECT_TRUE(std::none_of(paper["inconsistencies"].begin(), paper["inconsistencies"].end(),
                           [](const Parsed& cell) { return cell["table"] == "Table 7"; }));
  const Outcome text = run({"reproduce", "paper"});
  test::expect_parts(text.out, {"Table 9, Transfer", "cells contradict others"});
}

TEST_F(StudyTest, StagesOfNetworks) {
  network("a", 1);
  network("b", 2);
  network("v", 1, true);
  const auto own = json({"cka", path("a.safetensors"), "--data", kPictures, "-b", "20"});
  ASSERT_EQ(own["matrix"].size(), 4u);
  double sum = 0.0;
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const double value = own["matrix"][i][j];
      if (i == j)
        EXPECT_NEAR(value, 1.0, 1e-6);
      else
        sum += value;
      EXPECT_NEAR(value, own["matrix"][j][i].get<double>(), 1e-6);
    }
  EXPECT_NEAR(own["score"].get<double>(), 100 * sum / 12, 1e-6);
  // With itself as another network: the same matrix, of which all entries count.
  const auto twice =
      json({"cka", path("a.safetensors"), path("a.safetensors"), "--data", kPictures, "-b", "20"});
  EXPECT_NEAR(twice["matrix"][0][3].get<double>(), own["matrix"][0][3].get<double>(), 1e-5);
  EXPECT_NEAR(twice["score"].get<double>(), 100 * (sum + 4) / 16, 1e-3);
  const auto other =
      json({"cka", path("a.safetensors"), path("v.safetensors"), "--data", kPictures});
  EXPECT_EQ(other["matrix"].size(), 4u);
  EXPECT_EQ(other["matrix"][0].size(), 3u);
  const Outcome csv = run({"cka", path("a.safetensors"), "--data", kPictures, "--blocks", "--csv"});
  EXPECT_EQ(std::count(csv.out.begin(), csv.out.end(), '\n'), 9) << csv.err;  // 8 blocks
  expect_error({"cka", path("a.safetensors")}, 2, {"--data"});
  expect_error({"cka", path("a.safetensors"), "--data", "shapes:test=3,size=16"}, 2,
               {"4 pictures"});

  const auto apart = json({"separation", path("a.safetensors"), "--data", kPictures});
  EXPECT_EQ(apart["classes"], 10);
  EXPECT_EQ(apart["samples"], 40);
  EXPECT_GE(apart["S_inter"].get<double>(), apart["V_intra"].get<double>());
  EXPECT_LE(std::abs(apart["silhouette"].get<double>()), 1.0);
  EXPECT_NE(run({"separation", path("a.safetensors"), "--data", kPictures, "--csv"})
                .out.find("a.safetensors,40,10,"),
            std::string::npos);
  // One picture a class: nothing varies within a class, and the silhouette is 0 by definition.
  const auto single =
      json({"separation", path("a.safetensors"), "--data", "shapes:test=10,size=16"});
  EXPECT_NEAR(single["V_intra"].get<double>(), 0.0, 1e-9);
  EXPECT_EQ(single["silhouette"], 0.0);
  expect_error({"separation", path("a.safetensors"), "--data", "scene:test=20,size=16"}, 2,
               {"one label"});
}

TEST_F(StudyTest, DiversityByLayerAndThreshold) {
  network("a", 1);
  network("v", 1, true);
  const auto result = json({"diversity", path("a.safetensors"), "--curve", "--steps", "200"});
  ASSERT_EQ(result["tau"].size(), 201u);
  for (const auto& layer : result["layers"]) {
    // The area below the curve, by the midpoints of its steps, is D_C.
    const auto& c = layer["C_tau"];
    double area = 0.0;
    for (size_t i = 1; i < c.size(); ++i) {
      EXPECT_GE(c[i].get<double>(), c[i - 1].get<double>());  // fewer merges at higher thresholds
      area += 0.5 * (c[i].get<double>() + c[i - 1].get<double>()) / 200;
    }
    EXPECT_NEAR(area, layer["D_C"].get<double>(), 0.5 / 200 + 1e-9) << layer["name"];
  }
  const Outcome csv = run({"diversity", path("a.safetensors"), "--csv"});
  EXPECT_EQ(std::count(csv.out.begin(), csv.out.end(), '\n'), 22);  // heading, 20 layers, model
  EXPECT_NE(csv.out.find("\na,,,0."), std::string::npos) << csv.out;
  EXPECT_EQ(json({"diversity", path("v.safetensors")})["layers"].size(), 3u * 3 * 2);
  EXPECT_GT(json({"diversity", path("v.safetensors"), "--vit-layers", "all"})["layers"].size(),
            20u);
}

TEST_F(StudyTest, CheckpointsThatSomebodyBrings) {
  make_folder(path("zoo"));
  network("zoo/a", 1);
  network("zoo/b", 2);
  network("zoo/v", 3, true);
  const Words command =
      split("study " + path("zoo") + " --upstream " + kPictures +
            " --data shapes:train=40,test=20,size=16,seed=5,textures:train=40,test=20,size=16,"
            "textures:train=40,test=20,size=16,seed=9 --threads 1 -k 3");
  const Outcome outcome = run(command);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto results = Parsed::parse(read_file(path("zoo/study/results.json")));
  ASSERT_EQ(results["models"].size(), 3u);
  EXPECT_EQ(results["tasks"].size(), 3u);
  EXPECT_EQ(results["tasks"][2]["name"], "textures 2");
  double sum = 0.0;
  for (const auto& model : results["models"]) {
    sum += model["transfer"].get<double>();
    EXPECT_NEAR(model["spectral_cis"].get<double>(),
                model["accuracy"].get<double>() * model["spectral_diversity"].get<double>(), 1e-9);
    EXPECT_GE(model["inter"].get<double>(), model["intra"].get<double>());
    EXPECT_TRUE(model["cka"].is_number());
  }
  EXPECT_NEAR(sum, 0.0, 1e-9);
  for (const char* file :
       {"report.html", "results.csv", "correlations.csv", "layers.csv", "stages.csv", "tasks.csv"})
    EXPECT_TRUE(fs::exists(path("zoo/study/") + file)) << file;
  EXPECT_NE(outcome.out.find("rank correlation with transfer"), std::string::npos) << outcome.out;
  // Once more: nothing is measured again.
  const Outcome again = run(command);
  EXPECT_EQ(again.out, outcome.out);
  EXPECT_EQ(again.err.find("measuring"), std::string::npos) << again.err;

  // A network that is not finite is named, with its layer.
  network("zoo/c", 4, false,
          [](Module& module) { parameters(module).at(0).value.value().data<float>()[0] = NAN; });
  expect_error(command, 6, {"c.safetensors", "conv1.weight"});
  expect_error({"study", path("zoo")}, 2, {"--data"});
  expect_error({"study", path("nowhere"), "--data", "shapes"}, 3, {"nowhere"});
  make_folder(path("few"));
  network("few/a", 1);
  expect_error({"study", path("few"), "--data", "shapes"}, 3, {"few", "found 1"});
  expect_error({"study", path("zoo"), "--data", "shaeps", "--output", path("o")}, 2,
               {"did you mean 'shapes'"});
}

// Random inputs against SciPy and scikit-learn.
TEST_F(StudyTest, PeersAgree) {
  if (std::system("/usr/bin/python3 -c 'import sklearn, scipy' >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "python3-sklearn and python3-scipy are not installed";
  const int64_t n = 60;
  const Tensor x = test::hashed("peer.x", {n, 9}), y = test::hashed("peer.y", {n, 14});
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < n; ++i) labels.push_back(i * i % 7);
  save_npy(path("x.npy"), x);
  save_npy(path("y.npy"), y);
  save_npy(path("labels.npy"), Tensor::from(labels, {n}));
  std::string table = "row,a,b,c\n";
  for (int64_t i = 0; i < n; ++i)
    table += fmt::format("r{},{},{},{}\n", i, x.data<double>()[i * 9], (i * 7) % 5,
                         x.data<double>()[i * 9] + 0.5 * y.data<double>()[i * 14]);
  write("t.csv", table);
  ASSERT_EQ(std::system(fmt::format("/usr/bin/python3 {}/tests/peers/metrics_peer.py {} > {}",
                                    FACET_SOURCE_DIR, folder_.string(), path("peer.json"))
                            .c_str()),
            0);
  const auto peer = Parsed::parse(read_file(path("peer.json")));
  const auto apart = json({"separation", path("x.npy"), path("labels.npy")});
  for (const char* key : {"V_intra", "S_inter", "silhouette"})
    EXPECT_NEAR(apart[key].get<double>(), peer[key].get<double>(), 1e-9) << key;
  EXPECT_NEAR(json({"cka", path("x.npy"), path("y.npy")})["cka"].get<double>(),
              peer["cka"].get<double>(), 1e-9);
  EXPECT_NEAR(json({"cka", path("x.npy"), path("y.npy"), "-b", "20"})["cka"].get<double>(),
              peer["cka_minibatch"].get<double>(), 1e-9);
  const auto factors = json({"importance", path("t.csv"), "--target", "c"})["factors"];
  for (int i = 0; i < 2; ++i)
    for (const char* key : {"spearman", "pearson", "kendall"})
      EXPECT_NEAR(factors[i][key].get<double>(), peer["correlations"][i][key].get<double>(), 1e-9)
          << key;
  for (const auto& [matrix, name] : {std::pair{x, "x"}, {y, "y"}}) {
    const LayerDiversity own = layer_diversity({name, LayerKind::linear, matrix});
    EXPECT_NEAR(own.clustering, peer["diversity"][name]["D_C"].get<double>(), 1e-9);
    EXPECT_NEAR(own.spectral, peer["diversity"][name]["D_S"].get<double>(), 1e-9);
  }
}

}  // namespace
}  // namespace facet
