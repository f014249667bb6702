// facet separation: how far the classes of labelled features lie apart, of arrays or of a network.
#include "metrics/separation.h"

#include <algorithm>

#include "apps/command.h"
#include "apps/evaluate.h"
#include "apps/machine.h"
#include "apps/table.h"
#include "tensor/npy.h"

namespace facet {
namespace {

Separation of_arrays(const std::string& features, const std::string& labels, Device where) {
  if (labels.empty()) throw UsageError("facet separation: expected features and labels");
  const Tensor x = load_npy(features).to(where), y = load_npy(labels);
  if (x.rank() != 2 || !is_floating(x.dtype()))
    throw FileError("{}: expected floats (N, d), got {}", features, x.str());
  if (is_floating(y.dtype()) || y.shape() != Shape{x.dim(0)} || y.numel() == 0)
    throw FileError("{}: expected integers ({}), got {}", labels, x.dim(0), y.str());
  const std::vector<int64_t> values = y.to_vector<int64_t>();
  const int64_t largest = *std::max_element(values.begin(), values.end());
  const int64_t classes = std::clamp<int64_t>(largest, 1, INT64_MAX - 1) + 1;
  return about(features + ", " + labels,
               [&] { return separation(x, y.cast(DType::i64), classes); });
}

Separation of_network(const std::string& model, const DatasetPtr& pictures, const std::string& data,
                      Device where, int64_t workers) {
  if (pictures->multi_label()) throw UsageError("--data {}: expected one label a picture", data);
  const Features features = extract_features(load_network(model, where), pictures, workers);
  return separation(features.x, features.labels, pictures->num_classes());
}

}  // namespace

void run_separation(const Arguments& arguments) {
  Options options("separation",
                  "Intra-class variation, inter-class separation and silhouette of features, by "
                  "cosine distance.");
  std::string features, labels, device = "cpu", data;
  int64_t workers = 1;
  bool json = false, csv = false;
  options.add("features", features,
              "A .npy file of floats, (N, d); or a run's folder or checkpoint, with --data");
  options.add("labels", labels, "A .npy file of integers from 0, (N)");
  options.add("--data,--dataset", data, "Whose test pictures a network sees:\n" + dataset_help());
  options.add("-j,--workers", workers, "Threads that prepare batches", Options::kProcess);
  options.add("--device", device, "cpu, cuda or cuda:N", Options::kProcess);
  options.flag("--json", json, "Print JSON", Options::kProcess);
  options.flag("--csv", csv, "Print comma-separated values", Options::kProcess);
  if (!options.parse(arguments)) return;
  if (!data.empty() && (features.empty() || !labels.empty()))
    throw UsageError("facet separation: expected one network with --data");
  const Device where = use_device(device);
  Separation result;
  int64_t samples = 0;
  if (data.empty()) {
    result = of_arrays(features, labels, where);
    samples = load_npy(labels).dim(0);  // as many, and far smaller
  } else {
    const DatasetPtr pictures = open_dataset(data, Split::test);
    result = of_network(features, pictures, data, where, workers);
    samples = pictures->size();
  }
  if (json)
    print_json({{"features", features},
                {"samples", samples},
                {"classes", result.classes},
                {"V_intra", result.intra},
                {"S_inter", result.inter},
                {"S_inter_other", result.inter_other},
                {"silhouette", result.silhouette}});
  else if (csv)
    fmt::print(
        "features,samples,classes,V_intra,S_inter,S_inter_other,silhouette\n{},{},{},{},{},{},{}\n",
        csv_field(features), samples, result.classes, result.intra, result.inter,
        result.inter_other, result.silhouette);
  else
    fmt::print(
        "{}: intra-class variation {:.6f}, inter-class separation {:.6f} ({:.6f} between different "
        "classes), silhouette {:.6f} ({} samples, {} classes)\n",
        features, result.intra, result.inter, result.inter_other, result.silhouette, samples,
        result.classes);
}

}  // namespace facet
