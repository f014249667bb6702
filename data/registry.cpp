#include <algorithm>
#include <charconv>

#include "data/readers.h"
#include "data/synthetic.h"
#include "tensor/text.h"

namespace facet {
namespace {

constexpr const char* kDebianFashionMnist = "/usr/share/datasets/fashion-mnist";

struct Kind {
  const char* name;
  const char* help;
  bool needs_folder;
  DatasetPtr (*open)(const std::string& argument, Split split);
};

int64_t parse_number(const std::string& text, const std::string& key) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0)
    throw UsageError(fmt::format("dataset option {}: expected a number, got '{}'", key, text));
  return value;
}

// "train=2000,test=1000,size=28,seed=0"
SyntheticOptions parse_synthetic(const std::string& argument, Split split) {
  SyntheticOptions options;
  options.count = split == Split::train ? 2000 : 1000;
  for (size_t at = 0; at < argument.size();) {
    const size_t end = std::min(argument.find(',', at), argument.size());
    const std::string item = argument.substr(at, end - at);
    const size_t equals = item.find('=');
    const std::string key = item.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : item.substr(equals + 1);
    const std::vector<std::string> keys{"train", "test", "size", "seed"};
    if (std::find(keys.begin(), keys.end(), key) == keys.end())
      throw UsageError(
          fmt::format("unknown dataset option '{}': expected train, test, size or "
                      "seed{}",
                      key, did_you_mean(key, keys)));
    const int64_t number = parse_number(value, key);
    if (key == name(split)) options.count = number;
    if (key == "size") options.size = static_cast<int>(number);
    if (key == "seed") options.seed = static_cast<uint64_t>(number);
    at = end + 1;
  }
  if (options.count < 1 || options.size < 8 || options.size > 512)
    throw UsageError(
        fmt::format("dataset options '{}': expected at least one sample of 8 to 512 "
                    "pixels",
                    argument));
  return options;
}

template <DatasetPtr (*make)(const SyntheticOptions&, Split)>
DatasetPtr open_synthetic(const std::string& argument, Split split) {
  return make(parse_synthetic(argument, split), split);
}

DatasetPtr open_fashion_mnist(const std::string& folder, Split split) {
  if (!folder.empty()) return read_fashion_mnist(folder, split);
  if (!std::filesystem::is_directory(kDebianFashionMnist))
    throw FileError(
        fmt::format("{}: no such folder; install the Debian package "
                    "dataset-fashion-mnist or name a folder: fashion-mnist:FOLDER",
                    kDebianFashionMnist));
  return read_fashion_mnist(kDebianFashionMnist, split);
}

DatasetPtr open_mnist(const std::string& folder, Split split) {
  return read_mnist(folder, split, "mnist", {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"});
}

constexpr Kind kKinds[] = {
    {"fashion-mnist",
     "[:FOLDER] 70,000 grey 28-pixel pictures of clothes; default folder: Debian's", false,
     open_fashion_mnist},
    {"mnist", ":FOLDER in MNIST's layout, plain or .gz", true, open_mnist},
    {"cifar10", ":FOLDER with cifar-10-batches-bin", true,
     [](const std::string& folder, Split split) { return read_cifar10(folder, split); }},
    {"cifar100", ":FOLDER with cifar-100-binary", true,
     [](const std::string& folder, Split split) { return read_cifar100(folder, split); }},
    {"shapes", "[:train=N,test=N,size=S,seed=K] plane figures, 10 classes", false,
     open_synthetic<make_shapes>},
    {"textures", "[:...] textures, 10 classes", false, open_synthetic<make_textures>},
    {"digits", "[:...] digits drawn as strokes, 10 classes", false, open_synthetic<make_digits>},
    {"scene", "[:...] several figures a picture, 8 labels", false, open_synthetic<make_scene>},
    {"counts", "[:...] one to five figures a picture, 5 classes: how many", false,
     open_synthetic<make_counts>},
};

}  // namespace

DatasetPtr open_dataset(const std::string& specification, Split split) {
  const size_t colon = specification.find(':');
  const std::string kind = specification.substr(0, colon);
  const std::string argument =
      colon == std::string::npos ? std::string() : specification.substr(colon + 1);
  std::vector<std::string> known;
  for (const Kind& k : kKinds) {
    known.emplace_back(k.name);
    if (kind != k.name) continue;
    if (k.needs_folder && argument.empty())
      throw UsageError(fmt::format("dataset '{0}' needs a folder: {0}:FOLDER", kind));
    return k.open(argument, split);
  }
  throw UsageError(fmt::format("unknown dataset '{}': expected one of {}{}", kind,
                               fmt::join(known, ", "), did_you_mean(kind, known)));
}

std::string dataset_help() {
  std::string text;
  for (const Kind& k : kKinds) text += fmt::format("  {}{}\n", k.name, k.help);
  return text;
}

}  // namespace facet
