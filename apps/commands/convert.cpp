// facet convert: a file of weights in another container, its elements as they are.
#include "apps/command.h"
#include "apps/log.h"
#include "apps/weights.h"
#include "tensor/pytorch.h"

namespace facet {

void run_convert(const Arguments& arguments) {
  Options options("convert",
                  "Writes the tensors of a file of weights as safetensors, as a .pth that "
                  "torch.load(weights_only=True) opens, or as .npz.");
  std::string path, to = "safetensors", output;
  bool map = false, strict = false;
  options.add("file", path, "A file of weights, of any kind that facet inspect knows");
  options.choice("--to", to, {"safetensors", "pth", "npz"}, "What to write");
  options.add("-o,--output", output, "The file to write");
  options.flag("--map", map, "Only the network, under torchvision's or timm's names");
  options.flag("--strict", strict,
               "Refuse a file with a warning, or whose checksums are not right");
  if (!options.parse(arguments)) return;
  if (path.empty() || output.empty())
    throw UsageError("facet convert: expected a file and -o OUTPUT");

  const WeightsFile file(path, strict);
  std::vector<std::pair<std::string, const StoredTensor*>> chosen;
  Metadata added;
  if (map) {
    const MappedWeights mapped = map_weights(file);
    mapped.expect_fit(path);
    chosen.assign(mapped.weights.begin(), mapped.weights.end());
    const auto* const resnet = std::get_if<ResNetOptions>(&mapped.architecture);
    if (resnet && resnet->stem == Stem::padded) added["facet.stem"] = "padded";
    if (!added.empty() && to != "safetensors")
      log_info("warning: {}: only safetensors say that the first convolution pads 2 pixels",
               output);
  } else {
    for (const StoredTensor& tensor : file.content().tensors)
      chosen.emplace_back(tensor.name, &tensor);
  }
  if (chosen.empty()) throw FileError("{}: no tensors", path);
  std::vector<std::vector<std::byte>> bytes;  // what the packed tensors point to
  std::vector<PackedTensor> packed;
  for (const auto& [name, tensor] : chosen) {
    bytes.push_back(file.read(*tensor));
    packed.push_back({name, tensor->type, tensor->shape, bytes.back()});
  }
  if (to == "safetensors") {
    Metadata metadata;  // of safetensors alone: other files have none that is meant as such
    if (file.content().container == "safetensors") metadata = file.content().metadata;
    metadata.merge(added);
    save_safetensors(output, std::move(packed), std::move(metadata));
  } else if (to == "pth") {
    save_pytorch(output, packed);
  } else {
    save_npz(output, packed);
  }
}

}  // namespace facet
