#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/report/plot.h"
#include "apps/report/report.h"

namespace facet {
namespace {

// Colour and mark say where a model came from.
struct Look {
  std::string start, name;
  int colour;
  Mark mark;
};

std::vector<Look> looks(const Json& results) {
  constexpr Mark kMarks[] = {Mark::circle, Mark::square, Mark::diamond, Mark::triangle};
  constexpr int kColours = 5;
  std::vector<Look> list;
  for (const Json& model : results["models"]) {
    const std::string start = model["start"];
    if (std::ranges::find(list, start, &Look::start) != list.end()) continue;
    const auto i = static_cast<int>(list.size());
    const bool own = model["cycle"] == "-";
    list.push_back({start, own ? model["name"].get<std::string>() : start, i % kColours,
                    kMarks[i / kColours % 4]});
  }
  return list;
}

// The colour of the look of the models that started as `model` did; another where there is none.
int colour_of(const std::vector<Look>& list, const Json& model) {
  const auto look = std::ranges::find(list, model["start"].get<std::string>(), &Look::start);
  return look == list.end() ? 5 : look->colour;
}

std::string named_value(const std::string& name, double value) {
  return fmt::format("{} {:.4g}", name, value);
}

// Every model as a mark at (x, y); `sized`: as a circle as large as its transferability.
struct Axes {
  std::string x_label, x_key, y_label, y_key;
  bool sized = false;
};
Plot scatter(const Json& results, const std::string& title, const Axes& axes) {
  Plot plot{title, axes.x_label, axes.y_label, {}, {}};
  double low = INFINITY, high = -INFINITY;
  for (const Json& model : results["models"]) {
    low = std::min(low, number(model["transfer"]));
    high = std::max(high, number(model["transfer"]));
  }
  for (const Look& look : looks(results)) {
    PlotSeries series{look.name, look.colour, axes.sized ? Mark::circle : look.mark, {}};
    for (const Json& model : results["models"]) {
      if (model["start"] != look.start) continue;
      const double x = number(part(model, axes.x_key));
      const double y = number(part(model, axes.y_key));
      if (!std::isfinite(x) || !std::isfinite(y)) continue;
      const std::string name = model["name"], label = model["label"];
      series.points.push_back({x, y, label,
                               fmt::format("{}: {}, {}", name, named_value(axes.x_label, x),
                                           named_value(axes.y_label, y)),
                               axes.y_key == "transfer" ? number(model["transfer_error"]) : 0.0});
      if (!axes.sized) continue;
      const double transfer = number(model["transfer"]);
      series.points.back().radius =
          4.0 + 9.0 * (high > low ? (transfer - low) / (high - low) : 0.5);
      series.points.back().title += fmt::format(", transferability {:.3f}", transfer);
    }
    if (!series.points.empty()) plot.series.push_back(std::move(series));
  }
  return plot;
}

// The models that labels were injected into from one start, by cycle; the cycles of all starts in
// ascending order, infinity last.
std::vector<std::string> cycles_of(const Json& results) {
  std::vector<std::string> cycles;
  for (const Json& model : results["models"]) {
    const std::string cycle = model["cycle"];
    if (cycle != "-" && std::find(cycles.begin(), cycles.end(), cycle) == cycles.end())
      cycles.push_back(cycle);
  }
  const auto size = [](const std::string& c) { return c == "inf" ? INFINITY : std::stod(c); };
  std::ranges::sort(cycles, {}, size);
  return cycles;
}

// A plot over the control cycle, with a line a start or a measure.
class CyclePlot {
 public:
  CyclePlot(const Json& results, const std::string& title, const std::string& y_label)
      : cycles_(cycles_of(results)), plot_{title, "control cycle T", y_label, {}, {}} {
    for (const std::string& cycle : cycles_) plot_.x_names.push_back(cycle == "inf" ? "∞" : cycle);
  }
  // `rows` have a cycle; `value` of each is the height.
  template <typename Value>
  void add(const Json& rows, const Look& look, const Value& value) {
    PlotSeries series{look.name, look.colour, look.mark, {}, true};
    for (size_t i = 0; i < cycles_.size(); ++i)
      for (const Json& row : rows) {
        if (part(row, "cycle") != cycles_[i]) continue;
        const double y = value(row);
        if (!std::isfinite(y)) continue;
        series.points.push_back({static_cast<double>(i), y, "",
                                 fmt::format("{}, T = {}: {:.4g}", look.name, plot_.x_names[i], y),
                                 0.0});
      }
    if (!series.points.empty()) plot_.series.push_back(std::move(series));
  }
  void draw(Svgs& into) const {
    if (!plot_.series.empty()) into.push_back(render_svg(plot_));
  }

 private:
  std::vector<std::string> cycles_;
  Plot plot_;
};

Json models_of(const Json& results, const std::string& start) {
  Json list = Json::array();
  for (const Json& model : results["models"])
    if (model["start"] == start) list.push_back(model);
  return list;
}

// The least diverse model, the one that transfers best, and the most diverse one.
std::vector<const Json*> typical_models(const Json& results) {
  const Json& models = results["models"];
  const auto best = [&](const char* key, double sign) {
    const Json* found = nullptr;
    for (const Json& model : models)
      if (!part(model, "layers").empty() &&
          (!found || sign * number(model[key]) > sign * number((*found)[key])))
        found = &model;
    return found;
  };
  std::vector<const Json*> chosen;
  for (const Json* model : {best("clustering_diversity", -1.0), best("transfer", 1.0),
                            best("clustering_diversity", 1.0)})
    if (model && std::find(chosen.begin(), chosen.end(), model) == chosen.end())
      chosen.push_back(model);
  return chosen;
}

}  // namespace

const Json& part(const Json& object, const std::string& key) {
  static const Json missing;
  return object.is_object() && object.contains(key) ? object[key] : missing;
}

double number(const Json& value) {
  return value.is_number() ? value.get<double>() : NAN;
}

Svgs figure_1(const Json& results) {
  Svgs svgs;
  for (const auto& [title, label, key] :
       {std::tuple{"accuracy", "accuracy %", "accuracy"},
        {"CIS (clustering)", "accuracy × clustering diversity", "clustering_cis"},
        {"CIS (spectral)", "accuracy × spectral diversity", "spectral_cis"}})
    svgs.push_back(render_svg(scatter(results, fmt::format("Transfer against {}", title),
                                      {label, key, "transferability", "transfer"})));
  return svgs;
}

Svgs figure_3(const Json& results) {
  Svgs svgs;
  for (const auto& [title, label, key] :
       {std::tuple{"Clustering diversity", "D_C", "clustering_diversity"},
        {"Spectral diversity", "D_S", "spectral_diversity"}}) {
    Plot plot = scatter(results, fmt::format("{} against accuracy", title),
                        {"accuracy %", "accuracy", label, key, true});
    plot.product = true;
    svgs.push_back(render_svg(plot));
  }
  return svgs;
}

Svgs figure_4(const Json& results) {
  Svgs svgs;
  const std::vector<Look> list = looks(results);
  for (const auto& [title, key] : {std::pair{"Clustering diversity", "clustering_diversity"},
                                   {"Spectral diversity", "spectral_diversity"}}) {
    std::vector<Bar> bars;
    double largest = 0.0;
    for (const Json& model : results["models"]) {
      if (model["cycle"] != "-") continue;
      bars.push_back({model["name"], number(model[key]), colour_of(list, model)});
      largest = std::max(largest, bars.back().value);
    }
    if (largest > 0.0)
      svgs.push_back(render_bars(title, bars, {.full = largest, .digits = 3, .unit = ""}));
  }
  return svgs;
}

Svgs figure_6(const Json& results) {
  Svgs svgs;
  const std::vector<Look> list = looks(results);
  for (const Json& injection : part(results, "injections")) {
    const std::string title = injection["title"];
    CyclePlot similarity(results, fmt::format("{} with labels: similarity", title),
                         "mean CKA of all stages");
    for (const auto& [key, name, colour, mark] :
         {std::tuple{"to_start", "to " + title, 1, Mark::square},
          {"to_supervised", std::string("to the supervised network"), 0, Mark::circle}})
      similarity.add(injection["models"], {"", name, colour, mark},
                     [&, k = key](const Json& row) { return number(part(row, k)); });
    similarity.draw(svgs);
    // Three measures of different size, each relative to that of the start.
    const Json models = models_of(results, injection["start"]);
    const auto start =
        std::find_if(models.begin(), models.end(), [](const Json& m) { return m["cycle"] == "-"; });
    if (start == models.end()) continue;
    CyclePlot relative(results, fmt::format("{} with labels: relative to it", title),
                       "times its own");
    for (const auto& [key, name, colour, mark] :
         {std::tuple{"clustering_diversity", "clustering diversity", 2, Mark::square},
          {"accuracy", "accuracy", 0, Mark::circle},
          {"clustering_cis", "CIS", 1, Mark::diamond}})
      relative.add(models, {"", name, colour, mark},
                   [&, k = key](const Json& row) { return number(row[k]) / number((*start)[k]); });
    relative.draw(svgs);
  }
  return svgs;
}

Svgs figure_7(const Json& results) {
  Svgs svgs;
  for (const auto& [title, key] : {std::pair{"Clustering diversity", "clustering_diversity"},
                                   {"CIS (clustering)", "clustering_cis"},
                                   {"Transferability", "transfer"}}) {
    CyclePlot plot(results, fmt::format("{} by control cycle", title), title);
    for (const Look& look : looks(results))
      plot.add(models_of(results, look.start), look,
               [&, k = key](const Json& row) { return number(row[k]); });
    plot.draw(svgs);
  }
  return svgs;
}

Svgs figure_8(const Json& results) {
  Svgs svgs;
  for (const Json& row : part(results, "importances")) {
    std::vector<Bar> bars;
    for (const auto& [factor, share] : row["factors"].items())
      bars.push_back({factor, 100.0 * number(share), bars.empty() ? 1 : 0});
    svgs.push_back(
        render_bars(fmt::format("Importance, {} diversity{}", row["diversity"].get<std::string>(),
                                row["combined"] == true ? "" : " on its own"),
                    bars, {.digits = 1}));
  }
  return svgs;
}

Svgs figure_9(const Json& results) {
  constexpr size_t kLayers = 12;  // shown of a model
  Svgs svgs;
  for (const Json* model : typical_models(results)) {
    const Json& layers = (*model)["layers"];
    const std::string name = (*model)["name"];
    Plot plot{fmt::format("{}: clusters left", name), "threshold τ", "C_τ", {}, {}};
    std::vector<Bar> bars;
    const size_t shown = std::min(kLayers, layers.size());
    for (size_t i = 0; i < shown; ++i) {
      const Json& layer = layers[shown > 1 ? i * (layers.size() - 1) / (shown - 1) : 0];
      const auto colour = static_cast<int>(i % 6);
      std::string title = layer["name"];
      if (title.ends_with(".weight")) title.resize(title.size() - 7);
      PlotSeries series{"", colour, Mark::line, {}};
      for (size_t j = 0; j < layer["C_tau"].size(); ++j)
        series.points.push_back(
            {number((*model)["tau"][j]), number(layer["C_tau"][j]), "", "", 0.0});
      series.title = title;
      plot.series.push_back(std::move(series));
      bars.push_back({title.size() > 20 ? "…" + title.substr(title.size() - 19) : title,
                      number(layer["D_C"]), colour});
    }
    svgs.push_back(render_svg(plot));
    svgs.push_back(render_bars(fmt::format("{}: area below the curve", name), bars,
                               {.full = 1.0, .digits = 3, .unit = ""}));
  }
  return svgs;
}

Svgs figure_11(const Json& results) {
  Svgs svgs;
  for (const Json& model : results["models"]) {
    std::vector<std::vector<double>> rows;
    for (const Json& row : part(model, "cka_matrix")) rows.push_back(row);
    if (rows.size() > 1)
      svgs.push_back(render_heatmap(
          fmt::format("{} ({:.1f})", model["name"].get<std::string>(), number(model["cka"])),
          "stage", rows));
  }
  return svgs;
}

Svgs loss_curves(const Json& results) {
  Svgs svgs;
  for (const Json& group : part(results, "curves")) {
    Plot plot{group["title"], "step", "loss", {}, {}};
    int colour = 0;
    for (const Json& curve : group["curves"]) {
      PlotSeries series{curve["name"], colour++ % 6, Mark::line, {}};
      for (const Json& point : curve["points"])
        series.points.push_back({number(point[0]), number(point[1]), "", "", 0.0});
      series.points = thin_out(series.points, 160);
      plot.series.push_back(std::move(series));
      if (curve["collapse"].is_number())
        plot.lines.push_back({number(curve["collapse"]),
                              fmt::format("collapse: {:.3f}", number(curve["collapse"]))});
    }
    svgs.push_back(render_svg(plot));
  }
  return svgs;
}

Svgs neighbour_bars(const Json& results) {
  const Json& rows = part(part(results, "knn"), "rows");
  const std::vector<Look> list = looks(results);
  std::vector<Bar> bars;
  for (const Json& row : rows)
    bars.push_back({row["features"], number(row["accuracy"]), colour_of(list, row)});
  if (bars.empty()) return {};
  return {render_bars("Accuracy of nearest neighbours", bars)};
}

}  // namespace facet
