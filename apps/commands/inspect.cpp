// facet inspect: what a file of weights holds, without loading it.
#include <cmath>

#include "apps/command.h"
#include "apps/machine.h"
#include "apps/weights.h"
#include "tensor/hash.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

// Of every tensor, side by side.
std::vector<std::string> checksums(const WeightsFile& file) {
  const auto& tensors = file.content().tensors;
  std::vector<std::string> hashes(tensors.size());
  parallel_for(std::ssize(tensors), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
      hashes[i] = sha256(file.read(tensors[i]));
  });
  return hashes;
}

// "min -0.3, max 0.4, mean 0.001", and how many values are not finite.
std::string statistics(const WeightsFile& file, const StoredTensor& tensor) {
  if (!tensor.type->dtype || tensor.shape.size() > Shape::kMaxRank) return "not computed with";
  double low = INFINITY, high = -INFINITY, sum = 0;
  int64_t finite = 0, nonfinite = 0;
  for (const double value : file.load(tensor).to_vector<double>()) {
    if (!std::isfinite(value)) {
      ++nonfinite;
      continue;
    }
    low = std::min(low, value);
    high = std::max(high, value);
    sum += value;
    ++finite;
  }
  std::string text = finite == 0 ? "no value"
                                 : fmt::format("min {:.6g}, max {:.6g}, mean {:.6g}", low, high,
                                               sum / static_cast<double>(finite));
  if (nonfinite > 0) text += fmt::format(", {} NaN or infinite", nonfinite);
  return text;
}

// The beginnings of MD5 (MoCo, MAE) and SHA-256 (torchvision) that were published with the files.
constexpr struct {
  std::string_view hash, name;
} kPublished[] = {
    {"b251726a", "MoCo v1, 200 epochs"},
    {"59fd9945", "MoCo v2, 200 epochs"},
    {"a04e12f8", "MoCo v2, 800 epochs"},
    {"8cad7c", "MAE ViT-B"},
    {"b8b06e", "MAE ViT-L"},
    {"9bdbb0", "MAE ViT-H"},
    {"1b25e9", "MAE ViT-B, fine-tuned"},
    {"51f550", "MAE ViT-L, fine-tuned"},
    {"2541f2", "MAE ViT-H, fine-tuned"},
    {"19c8e357", "torchvision ResNet-50, V1 of 2017"},
    {"0676ba61", "torchvision ResNet-50, V1"},
    {"11ad3fa6", "torchvision ResNet-50, V2"},
    {"5c106cde", "torchvision ResNet-18 of 2017"},
};

struct FileHashes {
  std::string sha256, md5;
  std::string published;  // which file this is, where it is one that is known
};

FileHashes hashes_of(const WeightsFile& file, std::vector<std::string>& warnings) {
  const InputFile raw(file.path());
  Hasher sha("SHA256"), md5("MD5");
  std::vector<std::byte> piece(size_t{1} << 20);
  for (size_t at = 0; at < raw.size(); at += piece.size()) {
    piece.resize(std::min(piece.size(), raw.size() - at));
    raw.read(at, piece);
    sha.add(piece);
    md5.add(piece);
  }
  FileHashes hashes{sha.hex(), md5.hex(), {}};
  for (const auto& [hash, name] : kPublished)
    if (hashes.sha256.starts_with(hash) || hashes.md5.starts_with(hash)) hashes.published = name;
  // torchvision's and timm's names end with the beginning of their hash: resnet50-0676ba61.pth
  const std::string stem = file.path().stem().string();
  if (stem.size() < 9 || stem[stem.size() - 9] != '-') return hashes;
  const std::string expected = stem.substr(stem.size() - 8);
  if (expected.find_first_not_of("0123456789abcdef") == std::string::npos &&
      !hashes.sha256.starts_with(expected))
    warnings.push_back(fmt::format("its name promises a SHA-256 of {}..., it has {}...: damaged?",
                                   expected, hashes.sha256.substr(0, 8)));
  return hashes;
}

void print_all(const WeightsFile& file, const std::optional<MappedWeights>& weights,
               const FileHashes& of_file, const std::vector<std::string>& warnings, bool stats) {
  const StoredContent& content = file.content();
  const std::vector<std::string> hashes = checksums(file);
  Json::object_t tensors;  // appended to: names are known to differ
  for (size_t i = 0; i < content.tensors.size(); ++i) {
    const StoredTensor& tensor = content.tensors[i];
    Json entry = {{"shape", tensor.shape}, {"dtype", tensor.type->name}, {"sha256", hashes[i]}};
    if (stats) entry["stats"] = statistics(file, tensor);
    tensors.emplace_back(tensor.name, std::move(entry));
  }
  Json result = {{"container", content.container},
                 {"tensors", std::move(tensors)},
                 {"opaque", content.opaque},
                 {"mapping", nullptr},
                 {"sha256", of_file.sha256},
                 {"md5", of_file.md5},
                 {"published", of_file.published.empty() ? Json() : Json(of_file.published)}};
  if (weights) {
    result["mapping"] = weights->mapping;
    result["arch"] = weights->arch;
    result["fits"] = !weights->unfit;
    result["missing"] = weights->missing;
    result["unexpected"] = weights->unexpected;
    result["mismatched"] = weights->mismatched;
    result["dropped"] = weights->dropped;
  }
  result["metadata"] = content.metadata;
  result["warnings"] = warnings;
  fmt::print("{}\n", result.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void print_text(const WeightsFile& file, const FileHashes& of_file,
                const std::vector<std::string>& warnings, bool stats, bool sha) {
  const StoredContent& content = file.content();
  uint64_t elements = 0, bytes = 0;
  size_t longest = 0;
  for (const StoredTensor& tensor : content.tensors) {
    elements += tensor.numel();
    bytes += tensor.bytes();
    longest = std::max(longest, std::min<size_t>(tensor.name.size(), 60));
  }
  fmt::print("{}: {}, {} tensors in {} storages, {} elements, {:.1f} MiB\n", file.path().string(),
             content.container, content.tensors.size(), content.blocks.size(), elements,
             static_cast<double>(bytes) / (1 << 20));
  fmt::print("  SHA-256 {}, MD5 {}: {}\n", of_file.sha256, of_file.md5,
             of_file.published.empty() ? "no published file that facet knows" : of_file.published);
  const std::vector<std::string> hashes = sha ? checksums(file) : std::vector<std::string>();
  for (size_t i = 0; i < content.tensors.size(); ++i) {
    const StoredTensor& tensor = content.tensors[i];
    fmt::print("  {:<{}}  {:<4} {:<18} storage {}", tensor.name, longest, tensor.type->name,
               fmt::format("({})", fmt::join(tensor.shape, ", ")), tensor.block);
    if (tensor.offset > 0) fmt::print(" from element {}", tensor.offset);
    if (stats) fmt::print("  {}", statistics(file, tensor));
    if (sha) fmt::print("  {}", hashes[i]);
    fmt::print("\n");
  }
  for (const auto& [key, value] : content.metadata) fmt::print("  {} = {}\n", key, value);
  if (!content.opaque.empty())
    fmt::print("passed over, never executed: {}\n", fmt::join(content.opaque, ", "));
  for (const std::string& warning : warnings) fmt::print("warning: {}\n", warning);
}

void print_network(const MappedWeights& weights, size_t tensors) {
  fmt::print("{} in the layout of {}{}, {} of {} tensors, {} dropped\n", weights.arch,
             weights.mapping, weights.has_head ? ", with a classifier" : "", weights.weights.size(),
             tensors, weights.dropped.size());
  if (const std::string problems = weights.problems(); !problems.empty())
    fmt::print("{}: {}\n", weights.unfit ? "does not fit" : "passed over", problems);
}

}  // namespace

void run_inspect(const Arguments& arguments) {
  Options options("inspect",
                  "What a file of weights holds: PyTorch's zip, legacy and tar files, safetensors, "
                  ".npz and .npy, whatever their name. Nothing in it is executed.");
  std::string path;
  bool json = false, stats = false, sha = false, strict = false;
  options.add("file", path, "A file of weights");
  options.flag("--stats", stats, "Smallest, largest and mean value; how many are not finite");
  options.flag("--sha256", sha, "Checksum of every tensor's elements (always there in JSON)");
  options.flag("--strict", strict,
               "Refuse a file with a warning, or whose checksums are not right");
  options.flag("--json", json, "Print JSON", Options::kProcess);
  if (!options.parse(arguments)) return;
  if (path.empty()) throw UsageError("facet inspect: expected a file");

  const WeightsFile file(path, strict);
  std::optional<MappedWeights> weights;
  std::string reason;  // why there are none
  try {
    weights = map_weights(file);
  } catch (const FileError& e) {
    reason = e.what();
  }
  std::vector<std::string> warnings = file.content().warnings;
  const FileHashes of_file = hashes_of(file, warnings);
  if (json) return print_all(file, weights, of_file, warnings, stats);
  print_text(file, of_file, warnings, stats, sha);
  if (weights)
    print_network(*weights, file.content().tensors.size());
  else
    fmt::print("no network: {}\n", reason);
}

}  // namespace facet
