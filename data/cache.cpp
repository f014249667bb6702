#include "data/cache.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "tensor/file.h"
#include "tensor/hash.h"
#include "tensor/parallel.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kMagic = "facet pictures 1";

struct Record {
  uint64_t offset;
  uint32_t height, width, crc, zero;
};
struct Trailer {
  char index_hash[64], fingerprint[64];
  uint64_t index, pictures;
  uint32_t crc, shorter;
};
static_assert(sizeof(Record) == 24 && sizeof(Trailer) == 152);

uint32_t crc_of(const void* data, size_t bytes) {
  return static_cast<uint32_t>(::crc32_z(0, static_cast<const Bytef*>(data), bytes));
}

uint32_t crc_of(Trailer trailer) {
  trailer.crc = 0;
  return crc_of(&trailer, sizeof trailer);
}

// A fingerprint of any length in its place.
std::string fitting(const std::string& fingerprint) {
  return fingerprint.size() <= sizeof Trailer::fingerprint ? fingerprint : sha256(fingerprint);
}

Image shrunk(const Image& image, int shorter) {
  const int side = std::min(image.height, image.width);
  if (side <= shorter) return image;
  const auto scaled = [&](int extent) {
    return static_cast<int>(int64_t{shorter} * extent / side);
  };
  return resize(image, scaled(image.height), scaled(image.width), Filter::bilinear);
}

}  // namespace

fs::path cache_file(const fs::path& folder, Split split) {
  return folder / (std::string(name(split)) + ".pictures");
}

CachedDataset::CachedDataset(DatasetPtr base, const fs::path& file)
    : base_(std::move(base)),
      path_(file),
      file_(file),
      checked_(static_cast<size_t>(base_->size())) {
  const std::string_view text = file_.text();
  const auto fail = [&](const std::string& what) {
    throw FileError("{}: {}; make it again with facet dataset cache", file.string(), what);
  };
  Trailer trailer{};
  if (text.size() < kMagic.size() + sizeof trailer || !text.starts_with(kMagic))
    fail("no cache of pictures, or cut short");
  std::memcpy(&trailer, text.data() + text.size() - sizeof trailer, sizeof trailer);
  if (trailer.crc != crc_of(trailer)) fail("damaged, or cut short");
  if (trailer.pictures != static_cast<uint64_t>(size()) ||
      std::string(trailer.fingerprint, ::strnlen(trailer.fingerprint, 64)) !=
          fitting(base_->fingerprint()))
    fail(fmt::format("made of another dataset or split than {}", base_->describe()));
  const size_t bytes = size_t{trailer.pictures} * sizeof(Record);
  if (trailer.index + bytes + sizeof trailer != text.size() ||
      sha256(text.substr(trailer.index, bytes)) != std::string_view(trailer.index_hash, 64))
    fail("a damaged index");
  index_ = trailer.index;
  shorter_ = trailer.shorter;
}

std::string CachedDataset::describe() const {
  return fmt::format("{}, from a cache of pictures of {} pixels", base_->describe(), shorter_);
}

Sample CachedDataset::sample(int64_t index) const {
  FACET_CHECK(index >= 0 && index < size(), "dataset", "{}: no sample {} among {}", name(), index,
              size());
  const std::string_view text = file_.text();
  Record record;
  std::memcpy(&record, text.data() + index_ + static_cast<size_t>(index) * sizeof record,
              sizeof record);
  const bool is_bad = record.height == 0;
  const size_t bytes = is_bad ? record.width : size_t{record.height} * record.width * 3;
  const auto* pixels = reinterpret_cast<const uint8_t*>(text.data()) + record.offset;
  std::atomic<bool>& checked = checked_[static_cast<size_t>(index)];
  if (!checked.load(std::memory_order_relaxed)) {
    if (record.offset + bytes > index_ || crc_of(pixels, bytes) != record.crc)
      throw FileError("{}: picture {} is damaged; make it again with facet dataset cache",
                      path_.string(), index);
    checked.store(true, std::memory_order_relaxed);
  }
  if (is_bad) throw FileError(std::string(text.substr(record.offset, bytes)));
  return {pixels, static_cast<int>(record.height), static_cast<int>(record.width)};
}

void write_cache(const Dataset& dataset, int shorter, const fs::path& path,
                 const std::function<void(int64_t)>& progress,
                 const std::function<void(const std::string& error)>& bad) {
  make_folder(path.parent_path());
  AtomicFile file(path);
  file.write(kMagic);
  std::string index;
  uint64_t offset = kMagic.size();
  const int64_t n = dataset.size(), block = int64_t{16} * num_threads();
  for (int64_t begin = 0; begin < n; begin += block) {
    std::vector<Image> images(static_cast<size_t>(std::min(block, n - begin)));
    std::vector<std::string> errors(images.size());
    parallel_for(static_cast<int64_t>(images.size()), 1, [&](int64_t first, int64_t last) {
      for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); ++i) try {
          images[i] = shrunk(dataset.image(begin + static_cast<int64_t>(i)), shorter);
        } catch (const Error& error) {
          if (!bad) throw;
          errors[i] = error.what();
        }
    });
    for (size_t i = 0; i < images.size(); ++i) {
      Image& image = images[i];
      if (!errors[i].empty()) {
        bad(errors[i]);
        image.pixels.assign(errors[i].begin(), errors[i].end());
        image.height = 0;
        image.width = static_cast<int>(errors[i].size());
      }
      const Record record{offset, static_cast<uint32_t>(image.height),
                          static_cast<uint32_t>(image.width),
                          crc_of(image.pixels.data(), image.pixels.size()), 0};
      index.append(reinterpret_cast<const char*>(&record), sizeof record);
      file.write(std::as_bytes(std::span(image.pixels)));
      offset += image.pixels.size();
    }
    progress(begin + static_cast<int64_t>(images.size()));
  }
  Trailer trailer{};
  std::memcpy(trailer.index_hash, sha256(index).data(), sizeof trailer.index_hash);
  const std::string fingerprint = fitting(dataset.fingerprint());
  std::memcpy(trailer.fingerprint, fingerprint.data(), fingerprint.size());
  trailer.index = offset;
  trailer.pictures = static_cast<uint64_t>(n);
  trailer.shorter = static_cast<uint32_t>(shorter);
  trailer.crc = crc_of(trailer);
  file.write(index);
  file.write(std::as_bytes(std::span(&trailer, 1)));
  file.commit();
}

}  // namespace facet
