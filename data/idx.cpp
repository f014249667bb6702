// MNIST-layout folders.
#include <cstring>
#include <map>
#include <string>

#include "data/readers.h"
#include "tensor/hash.h"
#include "tensor/tar.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

fs::path find_file(const fs::path& folder, const std::string& stem, int rank) {
  const std::string kinds[] = {fmt::format("{}-idx{}-ubyte", stem, rank),
                               fmt::format("{}.idx{}-ubyte", stem, rank)};
  for (const char* below : {"", "raw", "MNIST/raw", "FashionMNIST/raw"})
    for (const std::string& kind : kinds)
      for (const char* packed : {"", ".gz"}) {
        const fs::path path = folder / below / (kind + packed);
        if (fs::exists(path)) return path;
      }
  throw FileError("{}: expected {} or {}.gz there or in MNIST/raw, found neither", folder.string(),
                  kinds[0], kinds[0]);
}

// MNIST and Fashion-MNIST name their files alike. The MD5 of the official ones, unpacked, so that
// files that were packed again (Debian's) are known, too.
void refuse_other_dataset(const fs::path& file, const std::string& bytes, const std::string& name) {
  static const std::map<std::string, std::string> known = {
      {"6bbc9ace898e44ae57da46a324031adb", "mnist"},
      {"a25bea736e30d166cdddb491f175f624", "mnist"},
      {"2646ac647ad5339dbf082846283269ea", "mnist"},
      {"27ae3e4e09519cfbb04c329615203637", "mnist"},
      {"f4a8712d7a061bf5bd6d2ca38dc4d50a", "fashion-mnist"},
      {"9018921c3c673c538a1fc5bad174d6f9", "fashion-mnist"},
      {"8181f5470baa50b63fa0f6fddb340f0a", "fashion-mnist"},
      {"15d484375f8d13e6eb1aabb0c3f46965", "fashion-mnist"}};
  const auto found = known.find(md5(bytes));
  if (found != known.end() && found->second != name)
    throw FileError("{}: expected {}, got the official file of {}", file.string(), name,
                    found->second);
}

}  // namespace

Tensor read_idx(const fs::path& path, int rank, std::string* whole) {
  // gzip makes a file at most about a thousand times smaller.
  std::error_code missing;
  const size_t most = fs::file_size(path, missing) * 1100;
  std::string bytes = read_gzip(path, most);
  const auto* const header = reinterpret_cast<const unsigned char*>(bytes.data());
  const size_t header_bytes = 4 + 4 * static_cast<size_t>(rank);
  const char* kind = rank == 3 ? "images" : "labels";
  if (bytes.size() < header_bytes)
    throw FileError(
        "{}: expected an IDX header of {} bytes, got {}; the file is truncated or empty",
        path.string(), header_bytes, bytes.size());
  if (header[0] != 0 || header[1] != 0)
    throw FileError("{}: expected an IDX file (it begins with 00 00), got {:02x} {:02x}",
                    path.string(), header[0], header[1]);
  if (header[2] != 0x08)
    throw FileError("{}: expected unsigned bytes (type 08), got type {:02x}", path.string(),
                    header[2]);
  if (header[3] != rank)
    throw FileError(
        "{}: expected {} (IDX with {} axes), got {} axes{}", path.string(), kind, rank, header[3],
        header[3] == 1 || header[3] == 3 ? "; images and labels may have been swapped" : "");
  Shape shape;
  int64_t numel = 1;
  for (int d = 0; d < rank; ++d) {
    const unsigned char* p = header + 4 + 4 * d;
    const int64_t extent = int64_t{p[0]} << 24 | int64_t{p[1]} << 16 | int64_t{p[2]} << 8 | p[3];
    shape.push_back(extent);
    const bool overflow = __builtin_mul_overflow(numel, extent, &numel);
    if (overflow || extent == 0 || numel > static_cast<int64_t>(most))
      throw FileError("{}: the header claims {} values, which no {} file holds", path.string(),
                      shape, kind);
  }
  Tensor values = Tensor::empty(shape, DType::u8);
  const size_t read = bytes.size() - header_bytes;
  if (read < values.bytes())
    throw FileError("{}: expected {} bytes for {}, got {}; the file is truncated", path.string(),
                    values.bytes(), shape, read);
  if (read > values.bytes())
    throw FileError("{}: more data than the {} bytes that its header {} announces", path.string(),
                    values.bytes(), shape);
  std::memcpy(values.raw(), bytes.data() + header_bytes, read);
  if (whole) *whole = std::move(bytes);
  return values;
}

DatasetPtr read_mnist(const fs::path& folder, Split split, const std::string& name,
                      std::vector<std::string> classes) {
  if (!fs::is_directory(folder))
    throw FileError("{}: no such folder; expected {} in MNIST's layout", folder.string(), name);
  const std::string stem = split == Split::train ? "train" : "t10k";
  const fs::path image_file = find_file(folder, stem + "-images", 3);
  const fs::path label_file = find_file(folder, stem + "-labels", 1);
  const auto read = [&](const fs::path& file, int rank) {
    std::string bytes;
    Tensor values = read_idx(file, rank, &bytes);
    refuse_other_dataset(file, bytes, name);
    return values;
  };
  const Tensor pixels = read(image_file, 3), labels = read(label_file, 1);
  if (pixels.dim(0) != labels.dim(0))
    throw FileError("{}: {} labels for the {} images of {}", label_file.string(), labels.dim(0),
                    pixels.dim(0), image_file.string());
  const uint8_t* label = labels.data<uint8_t>();
  for (int64_t i = 0; i < labels.numel(); ++i)
    if (label[i] >= classes.size())
      throw FileError("{}: label {} of sample {} is not among the {} classes", label_file.string(),
                      label[i], i, classes.size());
  return std::make_shared<ArrayDataset>(
      name, pixels.reshape({pixels.dim(0), pixels.dim(1), pixels.dim(2), 1}),
      labels.cast(DType::i64), std::move(classes));
}

DatasetPtr read_fashion_mnist(const fs::path& folder, Split split) {
  return read_mnist(folder, split, "fashion-mnist",
                    {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
                     "Sneaker", "Bag", "Ankle boot"});
}

}  // namespace facet
