// facet features: what a network makes of given images.
#include "apps/command.h"
#include "apps/interrupt.h"
#include "apps/machine.h"
#include "apps/model.h"
#include "autograd/ops.h"
#include "tensor/npy.h"
#include "tensor/ops.h"

namespace facet {

void run_features(const Arguments& arguments) {
  Options options("features",
                  "The features that a network's classifier would see, or its logits, for images "
                  "that are normalised already.");
  std::string weights, arch = "auto", input, output, device = "cpu";
  int64_t batch = 32;
  bool logits = false;
  std::vector<std::string> words = architecture_names();
  words.insert(words.begin(), "auto");
  options.add("--weights", weights, "A file of weights, of any kind that facet inspect knows");
  options.choice("--arch", arch, words, "The network; auto: what the file holds");
  options.add("--input", input, "A .npy file of floats, (N, H, W, channels)");
  options.add("--output", output, "The .npy file to write: f32 (N, features or classes)");
  options.flag("--logits", logits, "Write what the file's classifier makes of the features");
  options.add("--batch-size", batch, "Images at a time", Options::kProcess);
  options.add("--device", device, "cpu, cuda or cuda:N", Options::kProcess);
  if (!options.parse(arguments)) return;
  if (weights.empty() || input.empty() || output.empty())
    throw UsageError("facet features: expected --weights, --input and --output");
  need(batch >= 1, "--batch-size", "at least 1", batch);

  const Device where = use_device(device);
  const Tensor images = load_npy(input);
  TrainedNetwork network = load_network(weights, where, arch);
  const int64_t channels =
      std::visit([](const auto& o) { return o.channels; }, network.architecture);
  if (images.rank() != 4 || !is_floating(images.dtype()) || images.dim(3) != channels ||
      images.numel() == 0)
    throw FileError("{}: expected floats (N, H, W, {}), got {}", input, channels, images.str());
  if (const auto* const vit = std::get_if<VitOptions>(&network.architecture))
    if (images.dim(1) % vit->patch != 0 || images.dim(2) % vit->patch != 0)
      throw FileError("{}: expected images of whole patches of {} pixels, got {}", input,
                      vit->patch, images.str());
  if (logits && !network.head_weight.defined())
    throw FileError("{}: has no classifier: leave --logits out", weights);

  const NoGrad no_grad;
  TensorList rows;
  for (int64_t at = 0; at < images.dim(0); at += batch) {
    const Tensor part = images.narrow(at, std::min(batch, images.dim(0) - at));
    Tensor y = network.encoder->features(Variable(part.cast(DType::f32).to(where))).value();
    if (logits) y = ops::matmul(y, network.head_weight, false, true, network.head_bias);
    rows.push_back(y.to(Device{}));
    stop_if_interrupted("stopped while computing features");
  }
  save_npy(output, ops::concat(rows));
}

}  // namespace facet
