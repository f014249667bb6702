#include "tensor/weights_file.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "tensor/npy.h"
#include "tensor/pytorch.h"
#include "tensor/serialize.h"

namespace facet {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kZip = "PK\3\4", kNpy = "\x93NUMPY";
constexpr std::string_view kLegacy = "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"sv;
constexpr size_t kTarMagic = 257, kStart = 512;

// Files that people take for weights, and what to do about each.
struct Foreign {
  std::string_view start, what;
};
constexpr Foreign kForeign[] = {
    {"\x1f\x8b", "a gzip file: unpack it first"},
    {"\x89HDF\r\n", "an HDF5 file: convert it to safetensors with the library that wrote it"},
    {"version https://git-lfs", "a pointer of Git LFS, not the file itself: run git lfs pull"},
    {"<!DOCTYPE", "a web page: the download failed"},
    {"<!doctype", "a web page: the download failed"},
    {"<html", "a web page: the download failed"},
    {"PK\5\6", "an empty zip"},
};

void swap_bytes(std::span<std::byte> bytes, size_t width) {
  for (size_t i = 0; i + width <= bytes.size(); i += width)
    std::reverse(bytes.begin() + static_cast<std::ptrdiff_t>(i),
                 bytes.begin() + static_cast<std::ptrdiff_t>(i + width));
}

// Of one number; a complex one has two.
size_t number_bytes(const FileType& type) {
  return type.name[0] == 'C' ? type.bytes() / 2 : type.bytes();
}

StoredTensor from_npy(const NpyHeader& header, std::string name, size_t block) {
  StoredTensor tensor{.name = std::move(name),
                      .type = header.type,
                      .shape = {header.shape.begin(), header.shape.end()},
                      .strides = {},
                      .block = block};
  tensor.strides = contiguous_strides(tensor.shape, header.fortran);
  return tensor;
}

StoredContent open_npz(const InputFile& file, const ZipArchive& zip) {
  StoredContent content{.container = "npz"};
  for (const ZipEntry& entry : zip.entries()) {
    const NpyHeader header =
        read_npy_header(zip.read_start(entry, kNpyStart), entry.bytes,
                        fmt::format("{}: {}", file.path().string(), entry.name));
    content.tensors.push_back(
        from_npy(header, entry.name.substr(0, entry.name.size() - 4), content.blocks.size()));
    content.blocks.push_back({.in = StoredBlock::In::zip,
                              .begin = header.length,
                              .bytes = entry.bytes - header.length,
                              .entry = zip.index_of(entry)});
  }
  return content;
}

}  // namespace

WeightsFile::WeightsFile(const std::filesystem::path& path, bool strict) : file_(path) {
  open();
  if (zip_ && zip_->has_no_checksums())
    content_.warnings.push_back("no record's checksum is right: damage goes unnoticed");
  drop_duplicates();
  check_totals();
  if (strict) verify_all();
}

void WeightsFile::verify_all() const {
  if (zip_) zip_->verify_all();
  if (content_.container == "safetensors") verify_safetensors(file_, content_);
  if (!content_.warnings.empty()) fail("{} (strict)", fmt::join(content_.warnings, "; "));
}

// As in Python, where the last of two equal keys wins.
void WeightsFile::drop_duplicates() {
  std::unordered_map<std::string_view, size_t> last;
  for (size_t i = 0; i < content_.tensors.size(); ++i) last[content_.tensors[i].name] = i;
  if (last.size() == content_.tensors.size()) return;
  std::vector<StoredTensor> kept;
  for (size_t i = 0; i < content_.tensors.size(); ++i)
    if (last[content_.tensors[i].name] == i) kept.push_back(content_.tensors[i]);
  content_.warnings.push_back(fmt::format("{} tensors share their name with a later one",
                                          content_.tensors.size() - kept.size()));
  content_.tensors = std::move(kept);
}

void WeightsFile::open() {
  std::string start(std::min(file_.size(), kStart), '\0');
  file_.read(0, std::as_writable_bytes(std::span(start)));
  if (start.empty()) fail("empty: the download failed?");
  for (const Foreign& foreign : kForeign)
    if (start.starts_with(foreign.start)) fail("{}", foreign.what);
  if (start.starts_with(kZip)) {
    zip_ = std::make_unique<ZipArchive>(file_);
    const auto& entries = zip_->entries();
    if (entries.empty()) fail("an empty zip");
    const bool is_npz = std::all_of(entries.begin(), entries.end(), [](const ZipEntry& entry) {
      return entry.name.ends_with(".npy");
    });
    content_ = is_npz ? open_npz(file_, *zip_) : open_pytorch_zip(file_, *zip_);
  } else if (start.starts_with(kLegacy)) {
    content_ = open_pytorch_legacy(file_);
  } else if (start.starts_with(kNpy)) {
    start.resize(std::min(file_.size(), kNpyStart));
    file_.read(0, std::as_writable_bytes(std::span(start)));
    const NpyHeader header = read_npy_header(start, file_.size(), path().string());
    content_.container = "npy";
    content_.tensors.push_back(from_npy(header, "tensor", 0));
    content_.blocks.push_back({.begin = header.length, .bytes = file_.size() - header.length});
  } else if (start.size() == kStart && std::string_view(start).substr(kTarMagic, 5) == "ustar") {
    content_ = open_pytorch_tar(file_);
  } else if (start.size() > 8 && start[8] == '{') {
    content_ = open_safetensors(file_);
  } else if (start.starts_with('\x80')) {
    fail("a pickle, but not of PyTorch: save a state_dict() with torch.save");
  } else {
    fail(
        "neither a PyTorch file nor safetensors, .npz or .npy (a TensorFlow checkpoint has to be "
        "converted first)");
  }
}

// Views can be far larger than what they look at.
void WeightsFile::check_totals() const {
  const uint64_t most = 4 * file_.size() + (uint64_t{1} << 30);
  uint64_t total = 0;
  for (const StoredTensor& tensor : content_.tensors) {
    total += tensor.bytes();
    if (total > most)
      fail("tensor '{}': with it all tensors have more than {} bytes, the file has {}", tensor.name,
           most, file_.size());
  }
}

const StoredTensor* WeightsFile::find(const std::string& name) const {
  const auto found = std::find_if(content_.tensors.begin(), content_.tensors.end(),
                                  [&](const StoredTensor& t) { return t.name == name; });
  return found == content_.tensors.end() ? nullptr : &*found;
}

void WeightsFile::read_block(const StoredBlock& block, uint64_t offset,
                             std::span<std::byte> into) const {
  FACET_INTERNAL_CHECK(offset <= block.bytes && into.size() <= block.bytes - offset);
  switch (block.in) {
    case StoredBlock::In::file: return file_.read(block.begin + offset, into);
    case StoredBlock::In::zip:
      return zip_->read(zip_->entries()[block.entry], block.begin + offset, into);
    case StoredBlock::In::memory:
      if (!into.empty()) std::memcpy(into.data(), block.content.data() + offset, into.size());
  }
}

void WeightsFile::read_into(const StoredTensor& tensor, std::span<std::byte> into) const {
  if (into.empty()) return;
  if (content_.container == "safetensors")
    std::call_once(verified_, [&] { verify_safetensors(file_, content_); });
  const StoredBlock& block = content_.blocks[tensor.block];
  const size_t width = tensor.type->bytes();
  std::vector<int64_t> dense = contiguous_strides(tensor.shape);
  for (size_t axis = 0; axis < dense.size(); ++axis)  // the stride of one element does not matter
    if (tensor.shape[axis] == 1) dense[axis] = tensor.strides[axis];
  if (tensor.strides == dense) {
    read_block(block, tensor.offset * width, into);
  } else {
    uint64_t last = 0;
    for (size_t axis = 0; axis < tensor.shape.size(); ++axis)
      last += static_cast<uint64_t>((tensor.shape[axis] - 1) * tensor.strides[axis]);
    std::vector<std::byte> seen((last + 1) * width);
    read_block(block, tensor.offset * width, seen);
    std::vector<int64_t> index(tensor.shape.size());
    uint64_t from = 0;
    for (size_t to = 0; to < into.size(); to += width) {
      std::memcpy(into.data() + to, seen.data() + from * width, width);
      for (size_t axis = index.size(); axis-- > 0;) {
        from += static_cast<uint64_t>(tensor.strides[axis]);
        if (++index[axis] < tensor.shape[axis]) break;
        from -= static_cast<uint64_t>(tensor.shape[axis] * tensor.strides[axis]);
        index[axis] = 0;
      }
    }
  }
  if (block.big_endian) swap_bytes(into, number_bytes(*tensor.type));
}

std::vector<std::byte> WeightsFile::read(const StoredTensor& tensor) const {
  std::vector<std::byte> bytes(tensor.bytes());
  read_into(tensor, bytes);
  return bytes;
}

Tensor WeightsFile::load(const StoredTensor& tensor) const {
  if (tensor.shape.size() > Shape::kMaxRank)
    fail("tensor '{}': {} axes, expected at most {}", tensor.name, tensor.shape.size(),
         int{Shape::kMaxRank});
  const Shape shape{std::span(tensor.shape)};
  if (tensor.type->dtype && tensor.type == &file_type_of(*tensor.type->dtype)) {
    Tensor out = Tensor::empty(shape, *tensor.type->dtype);
    read_into(tensor, {static_cast<std::byte*>(out.raw()), out.bytes()});
    return out;
  }
  try {
    return decode(*tensor.type, read(tensor), shape);
  } catch (const FileError& e) {
    if (std::string_view(e.what()).starts_with(path().string())) throw;
    fail("tensor '{}': {}", tensor.name, e.what());
  }
}

void save_npz(const std::filesystem::path& path, std::span<const PackedTensor> tensors) {
  uint64_t bytes = 0;
  for (const PackedTensor& tensor : tensors) bytes += tensor.bytes.size();
  AtomicFile file(path, bytes);
  ZipWriter zip(file);
  for (const PackedTensor& tensor : tensors) {
    const std::string name = tensor.name + ".npy";
    const bool is_bf16 = std::string_view(tensor.type->name) == "BF16";
    std::string content = npy_header(is_bf16 ? *find_file_type("F32") : *tensor.type, tensor.shape);
    if (content.empty())
      throw FileError("tensor '{}': NumPy's files have no type {}; try --to safetensors",
                      tensor.name, tensor.type->name);
    if (is_bf16) {
      for (size_t i = 0; i < tensor.bytes.size(); i += 2) {
        content.append(2, '\0');  // the lower half of the f32
        content.append(reinterpret_cast<const char*>(tensor.bytes.data() + i), 2);
      }
    } else {
      content.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
    }
    zip.add(name, content);
  }
  zip.finish();
  file.commit();
}

}  // namespace facet
