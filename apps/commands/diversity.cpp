// facet diversity: how diverse the features of a network's weights are.
#include "apps/command.h"
#include "apps/model.h"
#include "apps/table.h"

namespace facet {
namespace {

Json json_of(const ModelDiversity& diversity, const DiversityOptions& settings) {
  Json result = {{"model", {{"D_C", diversity.clustering}, {"D_S", diversity.spectral}}},
                 {"layers", describe_layers(diversity)}};
  if (!settings.thresholds.empty()) {
    result["tau"] = settings.thresholds;
    result["model"]["C_tau"] = diversity.remaining;
  }
  return result;
}

// A row a layer, the model's means below.
Table table_of(const std::string& name, const ModelDiversity& diversity,
               const DiversityOptions& settings, bool exact) {
  Table table{{"layer", "n", "d", "D_C", "D_S"}};
  for (const double tau : settings.thresholds) table.columns.push_back(fmt::format("C {:g}", tau));
  const auto add = [&](const std::string& row, int64_t n, int64_t d, double clustering,
                       double spectral, const std::vector<double>& remaining) {
    const auto size = [](int64_t value) { return value ? std::to_string(value) : std::string(); };
    table.rows.push_back({row, size(n), size(d), number_cell(clustering, exact, 6),
                          number_cell(spectral, exact, 6)});
    for (const double c : remaining) table.rows.back().push_back(number_cell(c, exact, 3));
  };
  for (const LayerDiversity& l : diversity.layers)
    add(l.name, l.n, l.d, l.clustering, l.spectral, l.remaining);
  add(name, 0, 0, diversity.clustering, diversity.spectral, diversity.remaining);
  return table;
}

}  // namespace

void run_diversity(const Arguments& arguments) {
  Options options("diversity", "Clustering and spectral diversity of a network's weights.");
  std::string model, device = "cpu", vit = "msa";
  DiversityOptions settings;
  int64_t heads = 0, steps = 10;
  bool json = false, layers = false, csv = false, curve = false;
  options.add("model", model, "A run's folder or a file of weights (facet inspect)");
  options.flag("--include-head", settings.include_head, "Measure the classifier, too");
  options.flag("--shortcut", settings.shortcut, "Measure the shortcut convolutions");
  options.choice("--vit-layers", vit, {"msa", "all"},
                 "ViT: q, k and v of every head, or all layers");
  options.add("--heads", heads, "ViT: attention heads (0: the checkpoint's)");
  options.flag("--centre", settings.centre, "Spectral: subtract the mean feature");
  options.flag("--normalize", settings.normalize, "Spectral: features of unit length");
  options.flag("--layers", layers, "Print every layer");
  options.flag("--curve", curve,
               "Print the share of clusters C_tau that are left at thresholds from 0 to 1");
  between(options.add("--steps", steps, "Between the thresholds of the curve"), 1, 1000);
  options.add("--device", device, "cpu, cuda or cuda:N", Options::kProcess);
  options.flag("--json", json, "Print JSON", Options::kProcess);
  options.flag("--csv", csv, "Print comma-separated values, a row a layer", Options::kProcess);
  if (!options.parse(arguments)) return;
  if (model.empty()) throw UsageError("facet diversity: expected a run's folder or a file");

  TrainedNetwork network = load_network(model, use_device(device));
  std::vector<NamedWeight> weights = named_weights(*network.encoder);
  if (network.head_weight.defined()) weights.push_back({"fc.weight", network.head_weight});
  settings.heads = heads > 0 ? static_cast<int>(heads) : network.heads();
  settings.vit_layers = vit == "all" ? VitLayers::all : VitLayers::msa;
  if (curve) settings.thresholds = even_thresholds(steps);
  const ModelDiversity diversity = about(model, [&] { return model_diversity(weights, settings); });
  if (json) return print_json(json_of(diversity, settings));
  if (csv || layers || curve)
    fmt::print("{}", csv ? table_of(network.name, diversity, settings, true).csv()
                         : table_of(network.name, diversity, settings, false).text());
  if (!csv)
    fmt::print("{}: clustering diversity {:.6f}, spectral diversity {:.6f}, {} layers\n",
               network.name, diversity.clustering, diversity.spectral, diversity.layers.size());
}

}  // namespace facet
