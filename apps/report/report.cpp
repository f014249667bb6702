#include "apps/report/report.h"

#include <cmath>
#include <functional>
#include <iterator>

#include "apps/log.h"
#include "apps/report/page.h"
#include "apps/report/plot.h"
#include "tensor/check.h"

namespace facet {
namespace {

// Colour and mark say where a model came from.
struct Look {
  const char* start;
  int colour;
  Mark mark;
  const char* name;
};
const Look kLooks[] = {{"supervised", 0, Mark::circle, "supervised start"},
                       {"simclr", 1, Mark::square, "SimCLR start"},
                       {"supcon", 2, Mark::circle, "SupCon"},
                       {"ce+selfsupcon", 3, Mark::circle, "CE + SelfSupCon"},
                       {"moco", 2, Mark::square, "MoCo v2"},
                       {"swav", 3, Mark::square, "SwAV"},
                       {"dino", 4, Mark::square, "DINO"},
                       {"mae", 4, Mark::circle, "MAE"}};

const Look& look_of(const std::string& start) {
  for (const Look& look : kLooks)
    if (start == look.start) return look;
  return kLooks[0];
}

double number(const Json& value) {
  return value.is_number() ? value.get<double>() : NAN;
}

std::string shown(double value, int digits) {
  return std::isfinite(value) ? fmt::format("{:.{}f}", value, digits) : "-";
}

// A column of the table of models.
struct Column {
  std::string heading, help;
  int digits;
  std::function<double(const Json&)> value;
};

std::vector<Column> columns(const Json& results) {
  const auto field = [](const char* key) {
    return [key](const Json& model) { return number(model[key]); };
  };
  std::vector<Column> list = {
      {"accuracy %", "upstream test accuracy", 2, field("accuracy")},
      {"D_C", "clustering diversity", 4, field("clustering_diversity")},
      {"D_S", "spectral diversity", 4, field("spectral_diversity")},
      {"CIS_C", "accuracy times clustering diversity", 2, field("clustering_cis")},
      {"CIS_S", "accuracy times spectral diversity", 2, field("spectral_cis")},
      {"kNN %", "accuracy of nearest neighbours upstream", 2, field("knn")}};
  for (const Json& task : results["tasks"]) {
    const std::string name = task["name"];
    list.push_back({name + " %", "linear probe on " + name, 2,
                    [name](const Json& model) { return number(model["probes"][name]); }});
  }
  list.push_back({"transfer", "transferability score", 3, field("transfer")});
  list.push_back({"±", "its standard error", 3, field("transfer_error")});
  return list;
}

// Every model as a mark at (x, y).
Plot scatter(const Json& results, const std::string& title, const std::string& x_label,
             const char* x_key, const std::string& y_label, const char* y_key,
             const char* error_key = nullptr) {
  Plot plot{title, x_label, y_label, {}, {}};
  for (const Look& look : kLooks) {
    PlotSeries series{look.name, look.colour, look.mark, {}};
    for (const Json& model : results["models"]) {
      if (&look_of(model["start"]) != &look) continue;
      const double x = number(model[x_key]), y = number(model[y_key]);
      if (!std::isfinite(x) || !std::isfinite(y)) continue;
      const std::string name = model["name"], label = model["label"];
      series.points.push_back(
          {x, y, label, fmt::format("{}: {} {:.4g}, {} {:.4g}", name, x_label, x, y_label, y),
           error_key ? number(model[error_key]) : 0.0});
    }
    if (!series.points.empty()) plot.series.push_back(std::move(series));
  }
  return plot;
}

std::string curve_plot(const Json& curves, const std::string& title) {
  Plot plot{title, "step", "loss", {}, {}};
  int colour = 0;
  for (const Json& curve : curves) {
    PlotSeries series{curve["name"], colour++ % 6, Mark::line, {}};
    for (const Json& point : curve["points"])
      series.points.push_back({number(point[0]), number(point[1]), "", "", 0.0});
    series.points = thin_out(series.points, 160);
    plot.series.push_back(std::move(series));
    if (curve["collapse"].is_number())
      plot.lines.push_back(
          {number(curve["collapse"]), fmt::format("collapse: {:.3f}", number(curve["collapse"]))});
  }
  return render_svg(plot);
}

const Json& correlation(const Json& results, const char* measure) {
  for (const Json& row : results["correlations"])
    if (row["measure"] == measure) return row;
  throw InternalError(fmt::format("no correlation of {}", measure));
}

std::string model_table(const Json& results) {
  Page page;
  page.raw("<div class=\"wide\"><table class=\"sortable\"><thead><tr><th>model</th>");
  const std::vector<Column> list = columns(results);
  for (const Column& column : list)
    page.add("<th title=\"{}\">{}</th>", html_escape(column.help), html_escape(column.heading));
  page.raw("</tr></thead><tbody>");
  for (const Json& model : results["models"]) {
    page.add("<tr><td>{}</td>", html_escape(model["name"]));
    for (const Column& column : list) {
      page.add("<td>{}</td>", shown(column.value(model), column.digits));
    }
    page.raw("</tr>");
  }
  page.raw("</tbody></table></div>");
  return page.take();
}

std::string key_value_table(const Json& object) {
  Page page;
  page.raw("<div class=\"wide\"><table><tbody>");
  for (const auto& [key, value] : object.items())
    page.add("<tr><td>{}</td><td>{}</td></tr>", html_escape(key),
             html_escape(value.is_string() ? value.get<std::string>() : value.dump()));
  page.raw("</tbody></table></div>");
  return page.take();
}

void knn_section(Page& page, const Json& results) {
  const Json& knn = results["knn"];
  std::vector<Bar> bars;
  for (const Json& row : knn["rows"])
    bars.push_back({row["features"], number(row["accuracy"]),
                    row["start"] == "" ? 5 : look_of(row["start"]).colour});
  page.add(
      "<section><h2>What the networks learned before labels were injected</h2><p>Each of {} test "
      "images is "
      "given the class that its {} nearest neighbours among {} training images vote for. "
      "The same images and the same vote are used for raw pixels, for the network as it was "
      "before training, and after. SimCLR, MoCo, SwAV, DINO and MAE never saw a label.</p>"
      "<div class=\"plots\">",
      knn["queries"].dump(), knn["k"].dump(), knn["train"].dump());
  page.plot(render_bars("kNN accuracy on Fashion-MNIST", bars));
  page.raw("</div></section>");
}

void correlation_section(Page& page, const Json& results) {
  page.raw("<section><h2>Which number foretells transfer?</h2>");
  const Json& accuracy = correlation(results, "accuracy");
  const Json& clustering = correlation(results, "clustering_cis");
  const Json& spectral = correlation(results, "spectral_cis");
  page.add(
      "<p>Rank correlation (Spearman) with the transferability score over these {} models: "
      "accuracy {}, accuracy × clustering diversity {}, accuracy × spectral diversity "
      "{}. The paper found 0.55 for accuracy and 0.89 and 0.91 for the two scores, over "
      "its ImageNet models.</p>",
      results["models"].size(), shown(number(accuracy["spearman"]), 2),
      shown(number(clustering["spearman"]), 2), shown(number(spectral["spearman"]), 2));
  page.raw("<div class=\"plots\">");
  page.plot(render_svg(scatter(results, "Transfer against CIS (clustering)",
                               "accuracy × clustering diversity", "clustering_cis",
                               "transferability", "transfer", "transfer_error")));
  page.plot(render_svg(scatter(results, "Transfer against CIS (spectral)",
                               "accuracy × spectral diversity", "spectral_cis", "transferability",
                               "transfer", "transfer_error")));
  page.plot(render_svg(scatter(results, "Transfer against accuracy", "accuracy %", "accuracy",
                               "transferability", "transfer", "transfer_error")));
  page.raw(
      "</div><div class=\"wide\"><table class=\"sortable\"><thead><tr><th>measure</th>"
      "<th>Spearman</th><th>Pearson</th><th>Kendall</th></tr></thead><tbody>");
  for (const Json& row : results["correlations"])
    page.add("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", html_escape(row["title"]),
             shown(number(row["spearman"]), 3), shown(number(row["pearson"]), 3),
             shown(number(row["kendall"]), 3));
  page.raw("</tbody></table></div></section>");
}

}  // namespace

std::string render_report(const Json& results) {
  Page page;
  page.begin(results["title"]);
  page.add("<p class=\"soft\">{} · {} · {}</p>", html_escape(results["created"]),
           html_escape(results["machine"]["processor"]),
           format_seconds(number(results["seconds"])));
  page.raw(
      "<p>Networks are trained on Fashion-MNIST with labels (supervised, SupCon, CE + SelfSupCon) "
      "and without (SimCLR, MoCo v2 and SwAV: a ResNet; DINO and MAE: a vision transformer). Into "
      "the supervised one and SimCLR's, labels are injected with control cycle T: the "
      "classifier learns at every step, the network below it only at every T-th. T = 1 is "
      "ordinary fine-tuning; T = ∞ leaves the network as it was. For every model this report "
      "measures its accuracy, how diverse its features are, and how well they serve tasks "
      "it has never seen (a linear classifier on frozen features).</p>"
      "<p><strong>This is a small study:</strong> a narrow network, subsets, minutes on a "
      "processor, a few models. It shows the method at work; it can neither confirm nor refute "
      "what was found with ImageNet models.</p>");
  page.raw("<section><h2>All models</h2><p class=\"soft\">A click on a heading sorts.</p>");
  page.raw(model_table(results));
  page.raw("</section>");
  knn_section(page, results);
  correlation_section(page, results);

  page.raw(
      "<section><h2>Diversity against accuracy</h2><p>Diversity is measured on the weights "
      "alone: clustering diversity asks how many groups of similar features there are, "
      "spectral diversity how evenly the features fill their space. Injecting labels moves a "
      "model to the right; the question is whether it moves down.</p><div class=\"plots\">");
  page.plot(render_svg(scatter(results, "Clustering diversity against accuracy", "accuracy %",
                               "accuracy", "D_C", "clustering_diversity")));
  page.plot(render_svg(scatter(results, "Spectral diversity against accuracy", "accuracy %",
                               "accuracy", "D_S", "spectral_diversity")));
  page.raw(
      "</div></section><section><h2>Losses</h2><p>The dashed line is the method's loss where "
      "nothing is learned: all images mapped to one point, all classes or prototypes equally "
      "likely, every patch predicted as its mean. A network that has learned lies below "
      "it.</p><div class=\"plots\">");
  for (const Json& group : results["curves"])
    page.plot(curve_plot(group["curves"], group["title"]));
  page.raw("</div></section>");

  page.raw(
      "<section><h2>Tasks</h2><p>The transferability score is the log odds of a model's "
      "accuracies, minus their mean over the models, averaged over the tasks below.</p>"
      "<div class=\"wide\"><table><thead><tr><th>task</th><th>classes</th><th>train</th>"
      "<th>validation</th><th>test</th></tr></thead><tbody>");
  for (const Json& task : results["tasks"])
    page.add("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
             html_escape(task["name"]), task["classes"].dump(), task["train"].dump(),
             task["validation"].dump(), task["test"].dump());
  page.raw("</tbody></table></div></section><section><h2>How it was made</h2>");
  page.raw(key_value_table(results["machine"]));
  page.add("<h3>Times</h3>{}", key_value_table(results["stage_seconds"]));
  page.add("<h3>Configuration</h3><p>Run again with <code>{}</code>.</p>",
           html_escape(results["command"]));
  for (const auto& [name, text] : results["configuration"].items())
    page.add("<details><summary>{}</summary><pre>{}</pre></details>", html_escape(name),
             html_escape(text));
  page.raw("</section>");
  return page.finish();
}

std::string render_csv(const Json& results) {
  Page page;
  const std::vector<Column> list = columns(results);
  std::string line = "model,start,cycle";
  for (const Column& column : list) line += fmt::format(",{}", csv_field(column.heading));
  page.raw(line);
  for (const Json& model : results["models"]) {
    line = fmt::format("{},{},{}", csv_field(model["name"]), csv_field(model["start"]),
                       csv_field(model["cycle"]));
    for (const Column& column : list) {
      const double value = column.value(model);
      line += std::isfinite(value) ? fmt::format(",{}", value) : ",";
    }
    page.raw(line);
  }
  return page.take();
}

}  // namespace facet
