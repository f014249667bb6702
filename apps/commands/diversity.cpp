// facet diversity: how diverse the features of a network's weights are.
#include "apps/command.h"
#include "apps/machine.h"
#include "apps/model.h"

namespace facet {

void run_diversity(const Arguments& arguments) {
  Options options("diversity", "Clustering and spectral diversity of a network's weights.");
  std::string model, device = "cpu";
  DiversityOptions settings;
  bool json = false, layers = false;
  options.add("model", model, "A run's folder or a file of weights (facet inspect)");
  options.flag("--include-head", settings.include_head, "Measure the classifier, too");
  options.flag("--shortcut", settings.shortcut, "Measure the shortcut convolutions");
  options.flag("--centre", settings.centre, "Spectral: subtract the mean feature");
  options.flag("--normalize", settings.normalize, "Spectral: features of unit length");
  options.flag("--layers", layers, "Print every layer");
  options.add("--device", device, "cpu, cuda or cuda:N", Options::kProcess);
  options.flag("--json", json, "Print JSON", Options::kProcess);
  if (!options.parse(arguments)) return;
  if (model.empty()) throw UsageError("facet diversity: expected a run's folder or a file");

  TrainedNetwork network = load_network(model, use_device(device));
  std::vector<NamedWeight> weights = named_weights(*network.encoder);
  if (network.head_weight.defined()) weights.push_back({"fc.weight", network.head_weight});
  settings.heads = network.heads();
  const ModelDiversity diversity = model_diversity(weights, settings);
  if (json) {
    Json list = Json::array();
    for (const LayerDiversity& layer : diversity.layers)
      list.push_back({{"name", layer.name},
                      {"n", layer.n},
                      {"d", layer.d},
                      {"D_C", layer.clustering},
                      {"D_S", layer.spectral}});
    const Json result = {{"model", {{"D_C", diversity.clustering}, {"D_S", diversity.spectral}}},
                         {"layers", list}};
    fmt::print("{}\n", result.dump());
    return;
  }
  if (layers)
    for (const LayerDiversity& layer : diversity.layers)
      fmt::print("{:<32} {:>5} x {:<6} D_C {:.6f}  D_S {:.6f}\n", layer.name, layer.n, layer.d,
                 layer.clustering, layer.spectral);
  fmt::print("{}: clustering diversity {:.6f}, spectral diversity {:.6f}, {} layers\n",
             network.name, diversity.clustering, diversity.spectral, diversity.layers.size());
}

}  // namespace facet
