// The report: complete, self-contained, safe against odd names, and faithful to results.json.
#include "apps/report/report.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <regex>

#include "apps/report/plot.h"
#include "apps/study/score.h"
#include "tensor/file.h"
#include "tensor/text.h"
#include "tests/folder.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

// Two starts, labels in the second with T = 1, 4 and infinity.
Json sample_results() {
  Json models = Json::array();
  const char* const cycles[] = {"-", "-", "1", "4", "inf"};
  for (int i = 0; i < 5; ++i) {
    const Json layer = {
        {"name", "layer1.0.conv1.weight"}, {"n", 16}, {"d", 144}, {"D_C", 0.5}, {"D_S", 0.25},
        {"C_tau", {1.0, 0.5, 0.0}}};
    models.push_back(
        {{"name", i == 0 ? std::string("Odd <name> & \"quotes\"") : fmt::format("Model {}", i)},
         {"label", fmt::format("M{}", i)},
         {"start", i == 0 ? "supervised" : "simclr"},
         {"cycle", cycles[i]},
         {"accuracy", 80.0 + i},
         {"clustering_diversity", 0.5 + 0.01 * (i == 2   ? -1
                                                : i == 3 ? 6
                                                         : i)},
         {"spectral_diversity", 0.2 + 0.01 * i},
         {"clustering_cis", 40.0 + i},
         {"spectral_cis", 16.0 + i},
         {"knn", 81.25},
         {"cka", 61.75},
         {"cka_matrix", {{1.0, 0.25}, {0.25, 1.0}}},
         {"intra", 0.3},
         {"inter", 0.4},
         {"silhouette", 0.0625},
         {"layers", {layer}},
         {"tau", {0.0, 0.5, 1.0}},
         {"probes", {{"shapes", 61.5 + i}, {"digits", 71.125 + i * i}}}});
  }
  const Json task = {{"classes", 10}, {"train", 90}, {"validation", 30}, {"test", 100}};
  Json shapes = {{"name", "shapes"}}, digits = {{"name", "digits"}};
  shapes.update(task);
  digits.update(task);
  Json injected = Json::array();
  for (int i = 2; i < 5; ++i)
    injected.push_back({{"name", models[i]["name"]},
                        {"cycle", cycles[i]},
                        {"to_start", 90.0 + i},
                        {"to_supervised", 50.0 + i}});
  const Json curve = {
      {"name", "SimCLR"}, {"collapse", 5.541}, {"points", {{1, 5.5}, {2, 5.0}, {3, 4.5}}}};
  Json results = {
      {"title", "A study"},
      {"introduction", {"This is a small study."}},
      {"created", "2026-01-01"},
      {"command", "facet reproduce"},
      {"machine", {{"processor", "A processor"}, {"cores", 2}}},
      {"seconds", 61.0},
      {"stage_seconds", {{"train", "1 min"}}},
      {"models", models},
      {"tasks", {shapes, digits}},
      {"injections", {{{"start", "simclr"}, {"title", "SimCLR"}, {"models", injected}}}},
      {"knn",
       {{"k", 20},
        {"train", 1000},
        {"queries", 500},
        {"rows", {{{"features", "raw pixels"}, {"accuracy", 80.5}, {"start", ""}}}}}},
      {"curves", {{{"title", "SimCLR"}, {"curves", {curve}}}}},
      {"configuration", {{"reproduce", "lr = 0.1\n"}}}};
  add_scores(results, 0);
  return results;
}

TEST(Report, HoldsEverythingAndNeedsNothing) {
  const std::string page = render_report(sample_results());
  for (const std::string& text : split_list(
           "<!doctype html>,Model 3,64.50,80.12,collapse: 5.541,A processor,lr = 0.1,raw pixels,"
           "80.50%,small study,prefers-color-scheme: dark,@media print,sortable,Figure 1),"
           "Figure 3),Figure 4),Figure 6),Figure 7),Figure 8),Figure 9),Figure 11),"
           "Model 4 (61.8),95% interval"))
    EXPECT_NE(page.find(text), std::string::npos) << text;
  // Nothing from elsewhere: no address, no external style, script or picture.
  EXPECT_FALSE(std::regex_search(page, std::regex("https?://|src=|@import|<link|url\\(")));
  EXPECT_EQ(page.find("nan"), std::string::npos);
  const auto count = [&](const std::string& text) {
    size_t n = 0;
    for (size_t at = 0; (at = page.find(text, at)) != std::string::npos; ++at) ++n;
    return n;
  };
  // Figures 1, 3, 4, 6, 7 and 8, two plots for each of three models in 9, 11; neighbours, loss.
  EXPECT_EQ(count("<svg"), 3u + 2 + 2 + 2 + 3 + 4 + 6 + 5 + 1 + 1);
  EXPECT_EQ(count("<svg"), count("</svg>"));
  EXPECT_EQ(count("<table"), count("</table>"));
  EXPECT_EQ(count("<table"), count("<table class=\"sortable\">"));
  EXPECT_EQ(count("<figure"), count("</figure>"));
}

// What a user's own checkpoints have no numbers for is left out.
TEST(Report, AStudyWithoutTrainingIsComplete) {
  Json results = sample_results();
  for (const char* key : {"injections", "knn", "curves"}) results.erase(key);
  for (Json& model : results["models"]) {
    model["cycle"] = "-";
    model["start"] = model["name"];
    model["cka"] = nullptr;
    model["cka_matrix"] = {{1.0}};
  }
  const std::string page = render_report(results);
  EXPECT_NE(page.find("Figure 4)"), std::string::npos);
  for (const char* text : {"Figure 6)", "Figure 7)", "Figure 11)", "Losses", "nan"})
    EXPECT_EQ(page.find(text), std::string::npos) << text;
}

// In a browser, as wide as a phone: no script error, nothing wider than the screen, tables that
// sort and marks that tell their values.
using InABrowser = test::FolderTest;

TEST_F(InABrowser, TheReportShows) {
  if (std::system("command -v chromium >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "chromium is not installed";
  std::string page = render_report(sample_results());
  const std::string watch =
      "<script>window.faults = []; window.addEventListener('error', function (e) {"
      " faults.push(e.message); });</script>";
  const std::string probe = R"(<script>
    var out = {width: document.documentElement.scrollWidth - innerWidth};
    var th = document.querySelectorAll('table.sortable')[0].querySelectorAll('th')[1];
    var first = function () { return document.querySelector('tbody tr td').textContent; };
    th.click(); out.largest = first(); th.click(); out.smallest = first();
    document.querySelector('svg circle.mark').dispatchEvent(new MouseEvent('click',
      {bubbles: true}));
    out.tip = (document.getElementById('tip') || {}).textContent;
    out.faults = faults.join('; ');
    document.title = 'checked ' + JSON.stringify(out);
  </script></body>)";
  page.insert(page.find("<title>"), watch);
  page.replace(page.rfind("</body>"), 7, probe);
  write_file(folder_ / "report.html", page);
  const auto chromium = [&](const std::string& what) {
    return std::system(fmt::format("cd {0} && HOME={0} timeout 60 chromium --headless --no-sandbox "
                                   "--disable-gpu --window-size=500,900 {1} file://{0}/report.html "
                                   ">dom.html 2>log",
                                   folder_.string(), what)
                           .c_str());
  };
  ASSERT_EQ(chromium("--dump-dom"), 0) << read_file(folder_ / "log");
  const std::string dom = read_file(folder_ / "dom.html");
  std::smatch title;
  ASSERT_TRUE(std::regex_search(dom, title, std::regex("<title>checked (\\{.*\\})</title>")))
      << dom.substr(0, 2000);
  const Json seen = Json::parse(std::regex_replace(title[1].str(), std::regex("&amp;"), "&"));
  EXPECT_EQ(seen["faults"], "");
  EXPECT_LE(seen["width"].get<double>(), 0);
  EXPECT_EQ(seen["largest"], "Model 4");
  EXPECT_NE(seen["smallest"].get<std::string>().find("Odd"), std::string::npos);
  EXPECT_NE(seen["tip"].get<std::string>().find("transferability"), std::string::npos);
  ASSERT_EQ(chromium("--screenshot=report.png"), 0) << read_file(folder_ / "log");
  EXPECT_EQ(read_file(folder_ / "report.png").substr(1, 3), "PNG");
  EXPECT_GT(fs::file_size(folder_ / "report.png"), 10'000u);
}

TEST(Report, NamesAreEscaped) {
  const std::string page = render_report(sample_results());
  EXPECT_EQ(page.find("<name>"), std::string::npos);
  EXPECT_NE(page.find("Odd &lt;name&gt; &amp; &quot;quotes&quot;"), std::string::npos);
}

TEST(Report, EveryNumberIsInATable) {
  const std::vector<NamedTable> tables = result_tables(sample_results());
  std::map<std::string, const Table*> by_name;
  for (const NamedTable& t : tables) by_name[t.file] = &t.table;
  const Table& models = *by_name.at("results.csv");
  EXPECT_EQ(models.rows.size(), 5u);
  const std::string csv = models.csv();
  EXPECT_EQ(csv.find("model,start,cycle,accuracy,clustering_cis"), 0u) << csv;
  EXPECT_NE(csv.find("Model 1,simclr,-,81.0,41.0,"), std::string::npos) << csv;
  EXPECT_NE(csv.find("\"Odd <name> & \"\"quotes\"\"\""), std::string::npos) << csv;
  EXPECT_EQ(by_name.at("layers.csv")->columns.back(), "C 1");
  EXPECT_EQ(by_name.at("layers.csv")->rows.size(), 5u);
  EXPECT_EQ(by_name.at("stages.csv")->rows.size(), 20u);
  EXPECT_EQ(by_name.at("similarity.csv")->rows[0].back(), "52.0");
  EXPECT_EQ(by_name.at("losses.csv")->rows.size(), 3u);
  EXPECT_EQ(by_name.at("correlations.csv")->rows.size(), study_measures().size());
  EXPECT_EQ(by_name.at("importances.csv")->rows.size(), 2u * (5 + 6));
}

TEST(Plot, PointsStandWhereTheirValuesSay) {
  Plot plot;
  plot.series.push_back(
      {"", 0, Mark::circle, {{0, 0, "", "", 0}, {5, 5, "", "", 0}, {10, 10, "", "", 0}}});
  const std::string svg = render_svg(plot);
  std::vector<double> xs, ys;
  const std::regex mark("<circle cx=\"([0-9.]+)\" cy=\"([0-9.]+)\"");
  for (std::sregex_iterator it(svg.begin(), svg.end(), mark), end; it != end; ++it) {
    xs.push_back(std::stod((*it)[1]));
    ys.push_back(std::stod((*it)[2]));
  }
  ASSERT_EQ(xs.size(), 3u);
  EXPECT_NEAR(xs[1] - xs[0], xs[2] - xs[1], 0.11);
  EXPECT_GT(xs[2], xs[0]);
  EXPECT_NEAR(ys[0] - ys[1], ys[1] - ys[2], 0.11);
  EXPECT_LT(ys[2], ys[0]);
}

TEST(Plot, ColoursRiseWithTheValue) {
  EXPECT_EQ(viridis(0.0), "#440154");
  EXPECT_EQ(viridis(1.0), "#fde725");
  EXPECT_EQ(viridis(NAN), viridis(-3.0));
  EXPECT_EQ(viridis(0.5), "#21918c");
  const std::string map = render_heatmap("m", "stage", {{1.0, 0.0}, {0.0, 1.0}});
  EXPECT_NE(map.find("#fde725\" x=\"46.0\" y=\"136.0\""), std::string::npos) << map;
}

TEST(Plot, ALongLegendTakesMoreRows) {
  Plot plot;
  for (int i = 0; i < 6; ++i)
    plot.series.push_back(
        {fmt::format("a method of name {}", i), i, Mark::circle, {{1.0 * i, 1, "", "", 0}}});
  const std::string svg = render_svg(plot);
  const std::regex entry("<text x=\"([0-9.]+)\" y=\"([0-9.]+)\">a method");
  int entries = 0;
  for (std::sregex_iterator it(svg.begin(), svg.end(), entry), end; it != end; ++it) {
    EXPECT_LT(std::stod((*it)[1]) + 120, plot.width);
    ++entries;
  }
  EXPECT_EQ(entries, 6);
  EXPECT_NE(svg.find(fmt::format("viewBox=\"0 0 460 {}\"", plot.height + 34)), std::string::npos);
}

TEST(Plot, OnePointAndNoPointAreFine) {
  Plot plot;
  EXPECT_EQ(render_svg(plot).find("nan"), std::string::npos);
  plot.series.push_back({"one", 0, Mark::square, {{3, 0, "a", "b", 0}}});
  EXPECT_EQ(render_svg(plot).find("nan"), std::string::npos);
}

TEST(Plot, ThinningKeepsEndsAndMeans) {
  std::vector<PlotPoint> points;
  for (int i = 0; i < 1000; ++i) points.push_back({double(i), 2.0 * i, "", "", 0});
  const auto thin = thin_out(points, 100);
  ASSERT_EQ(thin.size(), 100u);
  EXPECT_EQ(thin.front().x, 0);
  EXPECT_EQ(thin.back().x, 999);
  EXPECT_DOUBLE_EQ(thin[50].x, 504.5);
  EXPECT_DOUBLE_EQ(thin[50].y, 1009.0);
}

}  // namespace
}  // namespace facet
