// The report: complete, self-contained, safe against odd names, and faithful to results.json.
#include "apps/report/report.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <regex>

#include "apps/report/plot.h"

namespace facet {
namespace {

Json sample_results() {
  Json models = Json::array();
  for (int i = 0; i < 4; ++i)
    models.push_back(
        {{"name", i == 0 ? std::string("Odd <name> & \"quotes\"") : fmt::format("Model {}", i)},
         {"label", fmt::format("M{}", i)},
         {"start", i % 2 ? "simclr" : "supervised"},
         {"cycle", "1"},
         {"accuracy", 80.0 + i},
         {"clustering_diversity", 0.5 + 0.01 * i},
         {"spectral_diversity", 0.2 + 0.01 * i},
         {"clustering_cis", 40.0 + i},
         {"spectral_cis", 16.0 + i},
         {"knn", 81.25},
         {"probes", {{"shapes", 61.5}, {"digits", 71.125}}},
         {"transfer", 0.125 * i},
         {"transfer_error", 0.0625}});
  Json correlations = Json::array();
  for (const char* measure : {"accuracy", "clustering_cis", "spectral_cis"})
    correlations.push_back({{"measure", measure},
                            {"title", measure},
                            {"spearman", 0.5},
                            {"pearson", nullptr},
                            {"kendall", 0.25}});
  const Json task = {{"classes", 10}, {"train", 90}, {"validation", 30}, {"test", 100}};
  Json shapes = {{"name", "shapes"}}, digits = {{"name", "digits"}};
  shapes.update(task);
  digits.update(task);
  const Json curve = {
      {"name", "SimCLR"}, {"collapse", 5.541}, {"points", {{1, 5.5}, {2, 5.0}, {3, 4.5}}}};
  return {{"title", "A study"},
          {"created", "2026-01-01"},
          {"command", "facet reproduce"},
          {"machine", {{"processor", "A processor"}, {"cores", 2}}},
          {"seconds", 61.0},
          {"stage_seconds", {{"train", "1 min"}}},
          {"models", models},
          {"tasks", {shapes, digits}},
          {"knn",
           {{"k", 20},
            {"train", 1000},
            {"queries", 500},
            {"rows", {{{"features", "raw pixels"}, {"accuracy", 80.5}, {"start", ""}}}}}},
          {"correlations", correlations},
          {"curves", {{{"title", "SimCLR"}, {"curves", {curve}}}}},
          {"configuration", {{"reproduce", "lr = 0.1\n"}}}};
}

TEST(Report, HoldsEverythingAndNeedsNothing) {
  const std::string page = render_report(sample_results());
  for (const char* text : {"<!doctype html>", "Model 3", "61.50", "71.12", "collapse: 5.541",
                           "A processor", "lr = 0.1", "raw pixels", "80.50%", "small study",
                           "prefers-color-scheme: dark", "@media print", "sortable"})
    EXPECT_NE(page.find(text), std::string::npos) << text;
  // Nothing from elsewhere: no address, no external style, script or picture.
  EXPECT_FALSE(std::regex_search(page, std::regex("https?://|src=|@import|<link|url\\(")));
  EXPECT_EQ(page.find("nan"), std::string::npos);
  // Six plots and one of bars, each closed.
  const auto count = [&](const std::string& text) {
    size_t n = 0;
    for (size_t at = 0; (at = page.find(text, at)) != std::string::npos; ++at) ++n;
    return n;
  };
  EXPECT_EQ(count("<svg"), 7u);
  EXPECT_EQ(count("<svg"), count("</svg>"));
  EXPECT_EQ(count("<table"), count("</table>"));
  EXPECT_EQ(count("<figure"), count("</figure>"));
}

TEST(Report, NamesAreEscaped) {
  const std::string page = render_report(sample_results());
  EXPECT_EQ(page.find("<name>"), std::string::npos);
  EXPECT_NE(page.find("Odd &lt;name&gt; &amp; &quot;quotes&quot;"), std::string::npos);
}

TEST(Report, CsvHasOneLineAModel) {
  const std::string csv = render_csv(sample_results());
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 5);
  EXPECT_EQ(csv.find("model,start,cycle,accuracy %,D_C"), 0u);
  EXPECT_NE(csv.find("Model 1,simclr,1,81,0.51,"), std::string::npos) << csv;
  EXPECT_NE(csv.find("\"Odd <name> & \"\"quotes\"\"\""), std::string::npos) << csv;
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
