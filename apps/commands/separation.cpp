// facet separation: how far the classes of labelled features lie apart.
#include "metrics/separation.h"

#include <algorithm>

#include "apps/command.h"
#include "apps/machine.h"
#include "tensor/npy.h"

namespace facet {

void run_separation(const Arguments& arguments) {
  Options options("separation",
                  "Intra-class variation, inter-class separation and silhouette of features, by "
                  "cosine distance.");
  std::string features, labels, device = "cpu";
  bool json = false;
  options.add("features", features, "A .npy file of floats, (N, d)");
  options.add("labels", labels, "A .npy file of integers from 0, (N)");
  options.add("--device", device, "cpu, cuda or cuda:N", Options::kProcess);
  options.flag("--json", json, "Print JSON", Options::kProcess);
  if (!options.parse(arguments)) return;
  if (labels.empty()) throw UsageError("facet separation: expected features and labels");
  const Device where = use_device(device);
  const Tensor x = load_npy(features).to(where), y = load_npy(labels);
  if (x.rank() != 2 || !is_floating(x.dtype()))
    throw FileError(fmt::format("{}: expected floats (N, d), got {}", features, x.str()));
  if (is_floating(y.dtype()) || y.shape() != Shape{x.dim(0)} || y.numel() == 0)
    throw FileError(fmt::format("{}: expected integers ({}), got {}", labels, x.dim(0), y.str()));
  const std::vector<int64_t> values = y.to_vector<int64_t>();
  const int64_t largest = *std::max_element(values.begin(), values.end());
  const int64_t classes = std::clamp<int64_t>(largest, 1, INT64_MAX - 1) + 1;
  const Separation result = separation(x, y.cast(DType::i64), classes);
  if (json)
    fmt::print("{}\n", Json({{"features", features},
                             {"samples", x.dim(0)},
                             {"classes", result.classes},
                             {"V_intra", result.intra},
                             {"S_inter", result.inter},
                             {"S_inter_other", result.inter_other},
                             {"silhouette", result.silhouette}})
                           .dump());
  else
    fmt::print(
        "{}: intra-class variation {:.6f}, inter-class separation {:.6f} ({:.6f} between different "
        "classes), silhouette {:.6f} ({} samples, {} classes)\n",
        features, result.intra, result.inter, result.inter_other, result.silhouette, x.dim(0),
        result.classes);
}

}  // namespace facet
