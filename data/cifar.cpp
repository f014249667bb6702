// CIFAR-10 and CIFAR-100. Binary versions: records of label byte(s) and 3 x 32 x 32 bytes, planes
// red, green, blue. Python versions: the same bytes as rows of an array beside a list of labels.
#include "data/cifar_python.h"
#include "data/listing.h"
#include "data/readers.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPixels = 3 * 32 * 32;

struct Layout {
  const char* name;
  const char* subfolder;
  const char* class_file;
  int64_t label_bytes, label_at, classes;
  // of the Python version
  const char *python_subfolder, *python_class_file, *python_classes, *python_labels;
};
constexpr Layout kCifar10{"cifar10",
                          "cifar-10-batches-bin",
                          "batches.meta.txt",
                          1,
                          0,
                          10,
                          "cifar-10-batches-py",
                          "batches.meta",
                          "label_names",
                          "labels"};
// CIFAR-100 stores the coarse label first.
constexpr Layout kCifar100{
    "cifar100", "cifar-100-binary", "fine_label_names.txt", 2, 1, 100, "cifar-100-python",
    "meta",     "fine_label_names", "fine_labels"};

std::vector<std::string> read_classes(const fs::path& folder, const Layout& layout, bool python) {
  const fs::path file = folder / (python ? layout.python_class_file : layout.class_file);
  std::vector<std::string> names =
      python ? parse_cifar_pickle(read_file(file), file.string()).texts[layout.python_classes]
             : read_lines(file);
  if (static_cast<int64_t>(names.size()) != layout.classes)
    throw FileError("{}: expected {} class names, got {}", file.string(), layout.classes,
                    names.size());
  return names;
}

// Stores record r of a file: its label, and of three planes, red, green and blue, the pixels.
template <typename PlaneByte>
void store(const fs::path& file, const Layout& layout, int64_t r, int64_t label,
           const PlaneByte& plane_byte, uint8_t* pixels, int64_t* labels) {
  if (label < 0 || label >= layout.classes)
    throw FileError("{}: label {} of record {} is not among the {} classes", file.string(), label,
                    r, layout.classes);
  labels[r] = label;
  for (int64_t i = 0; i < 1024; ++i)
    for (int64_t c = 0; c < 3; ++c) pixels[r * kPixels + 3 * i + c] = plane_byte(c * 1024 + i);
}

// One file of `records` records.
void read_batch(const fs::path& file, const Layout& layout, int64_t records, uint8_t* pixels,
                int64_t* labels) {
  const std::string content = read_file(file);
  const int64_t record = layout.label_bytes + kPixels;
  if (std::ssize(content) != records * record)
    throw FileError("{}: expected {} bytes ({} records of {}), got {}", file.string(),
                    records * record, records, record, content.size());
  for (int64_t r = 0; r < records; ++r) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(content.data()) + r * record;
    const auto plane_byte = [&](int64_t i) { return bytes[layout.label_bytes + i]; };
    store(file, layout, r, bytes[layout.label_at], plane_byte, pixels, labels);
  }
}

// The same of the Python version.
void read_python_batch(const fs::path& file, const Layout& layout, int64_t records, uint8_t* pixels,
                       int64_t* labels) {
  CifarPickle batch = parse_cifar_pickle(read_file(file), file.string());
  const std::vector<int64_t>& found = batch.numbers[layout.python_labels];
  if (batch.rows != records || batch.columns != kPixels ||
      static_cast<int64_t>(found.size()) != records)
    throw FileError("{}: expected {} pictures of {} bytes and as many {}, got {} x {} and {}",
                    file.string(), records, kPixels, layout.python_labels, batch.rows,
                    batch.columns, found.size());
  for (int64_t r = 0; r < records; ++r) {
    const auto plane_byte = [&](int64_t i) {
      const int64_t at = batch.fortran ? i * records + r : r * kPixels + i;
      return static_cast<uint8_t>(batch.data[static_cast<size_t>(at)]);
    };
    store(file, layout, r, found[static_cast<size_t>(r)], plane_byte, pixels, labels);
  }
}

DatasetPtr read_cifar(const fs::path& root, const Layout& layout, Split split,
                      const std::vector<std::string>& files, int64_t per_file) {
  if (!fs::is_directory(root))
    throw FileError("{}: no such folder; expected the binary or Python version of {}",
                    root.string(), layout.name);
  fs::path folder = root;
  for (const char* inner : {layout.python_subfolder, layout.subfolder})
    if (fs::is_directory(root / inner)) folder = root / inner;
  const bool python = fs::exists(folder / layout.python_class_file);
  std::vector<std::string> classes = read_classes(folder, layout, python);
  const int64_t n = per_file * static_cast<int64_t>(files.size());
  Tensor pixels = Tensor::empty({n, 32, 32, 3}, DType::u8);
  Tensor labels = Tensor::empty({n}, DType::i64);
  int64_t at = 0;
  for (const std::string& file : files) {
    (python ? read_python_batch : read_batch)(
        folder / (python ? fs::path(file).stem().string() : file), layout, per_file,
        pixels.data<uint8_t>() + at * kPixels, labels.data<int64_t>() + at);
    at += per_file;
  }
  std::vector<int64_t> count(static_cast<size_t>(layout.classes));
  for (int64_t i = 0; i < n; ++i) ++count[static_cast<size_t>(labels.data<int64_t>()[i])];
  for (size_t c = 0; c < count.size(); ++c)
    if (count[c] != n / layout.classes)
      throw FileError("{}: expected {} {} samples of class '{}', got {}", folder.string(),
                      n / layout.classes, name(split), classes[c], count[c]);
  return std::make_shared<ArrayDataset>(layout.name, pixels, labels, std::move(classes));
}

}  // namespace

DatasetPtr read_cifar10(const fs::path& folder, Split split) {
  std::vector<std::string> files;
  for (int i = 1; i <= 5; ++i) files.push_back(fmt::format("data_batch_{}.bin", i));
  if (split == Split::test) files = {"test_batch.bin"};
  return read_cifar(folder, kCifar10, split, files, 10000);
}

DatasetPtr read_cifar100(const fs::path& folder, Split split) {
  return split == Split::train ? read_cifar(folder, kCifar100, split, {"train.bin"}, 50000)
                               : read_cifar(folder, kCifar100, split, {"test.bin"}, 10000);
}

}  // namespace facet
