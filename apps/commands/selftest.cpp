// facet selftest: whether this build computes on this machine what the official codes compute.
#include <fmt/ranges.h>

#include <algorithm>

#include "apps/command.h"
#include "apps/goldens.h"
#include "apps/interrupt.h"
#include "apps/log.h"
#include "apps/machine.h"
#include "tensor/text.h"

namespace facet {

void run_selftest(const Arguments& arguments) {
  Options options("selftest",
                  "Runs ResNet-50, ViT-B/16, DINO's and MAE's networks with weights by formula and "
                  "compares outputs, losses and gradients with those of the official codes.");
  std::string device_name = "cpu", precision = "auto", networks = "all";
  bool json = false;
  options.add("--device", device_name, "cpu, cuda or cuda:N");
  options.choice("--precision", precision, {"auto", "f64", "f32"},
                 "auto: f64 on the CPU, f32 on CUDA");
  options.add("--networks", networks,
              fmt::format("Comma-separated: {}, or all", fmt::join(golden_networks(), ", ")));
  options.flag("--json", json, "Print {network.value: {got, want, tolerance, pass}}");
  if (!options.parse(arguments)) return;
  const Device device = use_device(device_name);
  const bool wide = precision == "f64" || (precision == "auto" && device.is_cpu());
  std::vector<std::string> chosen;
  for (const std::string& word : split_list(networks)) {
    const auto& known = golden_networks();
    if (word == "all")
      chosen = known;
    else if (std::find(known.begin(), known.end(), word) != known.end())
      chosen.push_back(word);
    else
      throw UsageError("--networks: unknown network '{}'{}", word, did_you_mean(word, known));
  }

  Json results = Json::object();
  size_t count = 0, failed = 0;
  for (const std::string& network : chosen) {
    log_info("{} in {} on {}", network, wide ? "f64" : "f32", device.str());
    for (const GoldenValue& value :
         golden_values(network, device, wide ? DType::f64 : DType::f32)) {
      ++count;
      failed += !value.pass();
      results[network + "." + value.name] = {{"got", value.got},
                                             {"want", value.want},
                                             {"tolerance", value.tolerance},
                                             {"pass", value.pass()}};
      if (!json)
        fmt::print("{}  {:<14} {:<44} {:>18.12g} {:>18.12g} {:>9.0e}\n",
                   value.pass() ? "pass" : "FAIL", network, value.name, value.got, value.want,
                   value.tolerance);
    }
    stop_if_interrupted("selftest stopped");
  }
  if (json)
    print_json(results);
  else
    fmt::print("{} of {} values pass\n", count - failed, count);
  if (failed > 0)
    throw Error(
        "{} of {} values differ from the official codes' by more than the "
        "tolerance: do not trust results of this build on this machine",
        failed, count);
}

}  // namespace facet
