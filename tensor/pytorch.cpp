#include "tensor/pytorch.h"

#include <algorithm>
#include <map>

#include "tensor/pytorch_state.h"
#include "tensor/tar.h"

namespace facet {
namespace {

using Id = Pickle::Id;
using Kind = Pickle::Kind;

constexpr int64_t kOldestZip = 1, kNewestZip = 10, kWrittenZip = 3;
constexpr size_t kFirstPiece = 4096;

// Adds the file's name to what is wrong inside.
template <typename F>
auto with_name(const InputFile& file, F&& f) {
  try {
    return f();
  } catch (const FileError& e) {
    const std::string what = e.what(), name = file.path().string();
    if (what.starts_with(name) || what.starts_with("cannot read ")) throw;
    throw FileError("{}: {}", name, what);
  }
}

// Pickles and raw bytes one behind the other, as PyTorch's older containers have them.
class Stream {
 public:
  Stream(const InputFile& file, uint64_t begin, uint64_t end)
      : file_(file), at_(begin), end_(end) {}

  uint64_t at() const { return at_; }
  uint64_t left() const { return end_ - at_; }
  void skip(uint64_t bytes) {
    if (bytes > left())
      throw FileError("byte {}: {} bytes expected, {} left: truncated?", at_, bytes, left());
    at_ += bytes;
  }

  // How long a pickle is shows only when it is read: from a longer piece each time.
  Pickle pickle() {
    for (uint64_t piece = kFirstPiece;; piece *= 8) {
      std::string bytes(std::min({piece, left(), Pickle::kLargest}), '\0');
      file_.read(at_, std::as_writable_bytes(std::span(bytes)));
      const bool is_all = bytes.size() == left() || bytes.size() == Pickle::kLargest;
      try {
        return Pickle(std::move(bytes), &at_);
      } catch (const PickleTruncated&) {
        if (is_all) throw;
      }
    }
  }

  template <typename T>
  T number() {
    T value;
    const uint64_t from = at_;
    skip(sizeof(T));
    file_.read(from, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  std::vector<int64_t> numbers(int32_t n) {
    std::vector<int64_t> values;
    for (int32_t i = 0; i < n; ++i) values.push_back(number<int64_t>());
    return values;
  }

 private:
  const InputFile& file_;
  uint64_t at_, end_;
};

uint64_t count_of(const Pickle& pickle, Id id, const char* what) {
  if (!pickle.is(id, Kind::integer) || pickle.integer(id) < 0)
    throw FileError("the number of {} is none", what);
  return static_cast<uint64_t>(pickle.integer(id));
}

// The names under which storages are known are numbers or texts.
std::string key_of(const Pickle& pickle, Id id) {
  if (pickle.is(id, Kind::integer)) return std::to_string(pickle.integer(id));
  if (pickle.is(id, Kind::text)) return std::string(pickle.text(id));
  throw FileError("a storage without a name");
}

// The part of a storage that a view of so many elements shows.
TorchStorage part_of(TorchStorage storage, const std::string& key, uint64_t element_bytes,
                     const Pickle& pickle, Id first, Id count) {
  const uint64_t offset = count_of(pickle, first, "elements skipped");
  const uint64_t numel = count_of(pickle, count, "elements of a view");
  const uint64_t elements = storage.bytes / element_bytes;
  if (offset > elements || numel > elements - offset)
    throw FileError("a view of storage '{}' reaches beyond it", key);
  storage.first += offset * element_bytes;
  storage.bytes = numel * element_bytes;
  return storage;
}

bool is_big_endian(const Pickle& system) {
  const std::span<const Id> items = system.items(system.root());
  if (!system.is(system.root(), Kind::dict)) return false;
  for (size_t i = 0; i < items.size(); i += 2)
    if (system.text(items[i]) == "little_endian" && system.is(items[i + 1], Kind::boolean))
      return system.integer(items[i + 1]) == 0;
  return false;
}

// ('storage', class, key, location, numel[, view]); where it was (cuda:0) does not matter.
struct StorageId {
  std::string key;
  std::string type_name;
  const FileType* type = nullptr;  // null for untyped bytes and for types that cannot be read
  bool is_readable = false;
  uint64_t numel = 0;
  Id view = Pickle::kNone;

  StorageId(const Pickle& pickle, Id persistent) {
    const Id id = pickle.item(persistent, 0);
    const std::string_view kind = pickle.text(pickle.item(id, 0));
    if (kind == "module")
      throw FileError("a whole nn.Module was saved: save its state_dict() instead");
    if (!pickle.is(id, Kind::tuple) || kind != "storage" || pickle.items(id).size() < 5)
      throw FileError("refers to something that is no storage");
    type_name = pickle.text(pickle.item(id, 1));
    type = storage_type(type_name);
    is_readable = type || is_untyped_storage(type_name);
    key = key_of(pickle, pickle.item(id, 2));
    numel = count_of(pickle, pickle.item(id, 4), "elements of a storage");
    view = pickle.item(id, 5);
  }

  uint64_t element_bytes() const { return type ? type->bytes() : 1; }
  uint64_t bytes() const {
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(numel, element_bytes(), &bytes))
      throw FileError("storage '{}': {} elements overflow", key, numel);
    return bytes;
  }
  TorchStorage within(size_t block) const { return {block, type, bytes(), 0}; }
};

}  // namespace

// ---- zip

StoredContent open_pytorch_zip(const InputFile& file, const ZipArchive& zip) {
  return with_name(file, [&] {
    StoredContent content{.container = "zip"};
    const std::string& first = zip.entries().front().name;
    const std::string prefix = first.substr(0, first.find('/') + 1);
    const auto require = [&](const std::string& name) -> const ZipEntry& {
      if (const ZipEntry* entry = zip.find(prefix + name)) return *entry;
      throw FileError("no record '{}{}'", prefix, name);
    };
    for (const ZipEntry& entry : zip.entries()) {
      if (prefix.empty() || !entry.name.starts_with(prefix))
        throw FileError("the records '{}' and '{}' have no prefix in common", first, entry.name);
      if (entry.name == prefix + "constants.pkl" || entry.name.starts_with(prefix + "code/"))
        throw FileError("a TorchScript archive: save the state_dict() with torch.save instead");
    }
    const ZipEntry& object = require("data.pkl");
    if (object.bytes > Pickle::kLargest)
      throw FileError("data.pkl has {} bytes, expected at most {}", object.bytes, Pickle::kLargest);
    const Pickle pickle(zip.read(object));

    const ZipEntry* version = zip.find(prefix + "version");
    if (!version) version = zip.find(prefix + ".data/version");
    if (version) {
      const std::string text = zip.read_start(*version, 20);
      const int64_t number = std::strtoll(text.c_str(), nullptr, 10);
      if (number < kOldestZip || number > kNewestZip)
        throw FileError("version {} of the format, expected {} to {}", number, kOldestZip,
                        kNewestZip);
    } else {
      content.warnings.push_back("no record 'version': PyTorch refuses the file");
    }
    bool big_endian = false;
    if (const ZipEntry* order = zip.find(prefix + "byteorder"))
      big_endian = zip.read_start(*order, 3) == "big";

    std::map<std::string, size_t> blocks;
    TorchState state(
        pickle, content, [&](Id persistent, std::string& opaque) -> std::optional<TorchStorage> {
          const StorageId id(pickle, persistent);
          opaque = id.type_name;
          if (!id.is_readable) return {};
          const auto [known, is_new] = blocks.try_emplace(id.key, content.blocks.size());
          if (is_new) {
            const ZipEntry& entry = require("data/" + id.key);
            content.blocks.push_back({.in = StoredBlock::In::zip,
                                      .bytes = entry.bytes,
                                      .entry = zip.index_of(entry),
                                      .big_endian = big_endian});
            if (entry.bytes > id.bytes())
              content.warnings.push_back(fmt::format("record 'data/{}' has {} bytes, expected {}",
                                                     id.key, entry.bytes, id.bytes()));
          }
          if (content.blocks[known->second].bytes < id.bytes())
            throw FileError("record 'data/{}' has {} bytes, expected {}", id.key,
                            content.blocks[known->second].bytes, id.bytes());
          return id.within(known->second);
        });
    state.read();
    return content;
  });
}

// ---- the stream of pickles

StoredContent open_pytorch_legacy(const InputFile& file) {
  return with_name(file, [&] {
    StoredContent content{.container = "legacy"};
    Stream stream(file, 0, file.size());
    stream.pickle();  // the magic number
    const Pickle version = stream.pickle();
    if (!version.is(version.root(), Kind::integer) || version.integer(version.root()) != 1001)
      throw FileError("its protocol is not 1001");
    const bool big_endian = is_big_endian(stream.pickle());
    const Pickle pickle = stream.pickle();
    const Pickle keys = stream.pickle();

    // The storages follow in the order of the keys; how large each is, only its users say.
    std::map<std::string, StorageId> storages;
    for (Id id = 0; id < pickle.size(); ++id)
      if (pickle.is(id, Kind::persistent)) {
        const StorageId storage(pickle, id);
        const auto [known, is_new] = storages.try_emplace(storage.key, storage);
        if (!is_new && known->second.bytes() != storage.bytes())
          throw FileError("storage '{}' has two sizes", storage.key);
      }
    std::map<std::string, size_t> blocks;
    for (const Id id : keys.items(keys.root())) {
      const std::string key = key_of(keys, id);
      const auto storage = storages.find(key);
      if (storage == storages.end()) throw FileError("nothing uses storage '{}'", key);
      if (!storage->second.is_readable)
        throw FileError("storage '{}' is a {}: not supported", key, storage->second.type_name);
      const auto numel = stream.number<uint64_t>();
      if (numel != storage->second.numel)
        throw FileError("storage '{}' has {} elements, expected {}", key, numel,
                        storage->second.numel);
      const uint64_t bytes = storage->second.bytes();
      if (!blocks.try_emplace(key, content.blocks.size()).second)
        throw FileError("storage '{}' is there twice", key);
      content.blocks.push_back({.begin = stream.at(), .bytes = bytes, .big_endian = big_endian});
      stream.skip(bytes);
    }
    if (stream.left() > 0)
      content.warnings.push_back(fmt::format("{} bytes behind the last storage", stream.left()));
    content.warnings.push_back("this container has no checksums");

    TorchState state(
        pickle, content, [&](Id persistent, std::string&) -> std::optional<TorchStorage> {
          const StorageId id(pickle, persistent);
          const auto known = blocks.find(id.key);
          if (known == blocks.end())
            throw FileError("storage '{}' is missing from the file", id.key);
          const TorchStorage storage = id.within(known->second);
          if (!pickle.is(id.view, Kind::tuple)) return storage;
          return part_of(storage, id.key, id.element_bytes(), pickle,  // (key, offset, numel)
                         pickle.item(id.view, 1), pickle.item(id.view, 2));
        });
    state.read();
    return content;
  });
}

// ---- tar

StoredContent open_pytorch_tar(const InputFile& file) {
  return with_name(file, [&] {
    StoredContent content{.container = "tar"};
    std::map<std::string, TarMember> members;  // their paths are only keys
    for (const TarMember& member : index_tar(file))
      if (!members.try_emplace(member.name.substr(member.name.starts_with("./") ? 2 : 0), member)
               .second)
        throw FileError("tar: '{}' is there twice", member.name);
    const auto open = [&](const char* name) {
      const auto found = members.find(name);
      if (found == members.end())
        throw FileError("a tar without '{}': no PyTorch file (unpack it first?)", name);
      return Stream(file, found->second.offset, found->second.offset + found->second.size);
    };
    const bool big_endian = is_big_endian(open("sys_info").pickle());

    std::map<std::string, TorchStorage> storages;
    const auto storage_named = [&](const std::string& key) {
      const auto found = storages.find(key);
      if (found == storages.end()) throw FileError("no storage '{}'", key);
      return found->second;
    };
    Stream stream = open("storages");
    const auto count = [](Stream& from, const char* what) {
      const Pickle number = from.pickle();
      return count_of(number, number.root(), what);
    };
    for (uint64_t n = count(stream, "storages"); n > 0; --n) {
      const Pickle entry = stream.pickle();  // (key, location, class)
      const Id tuple = entry.root();
      const std::string key = key_of(entry, entry.item(tuple, 0));
      const std::string_view class_name = entry.text(entry.item(tuple, 2));
      const FileType* const type = storage_type(class_name);
      if (!type) throw FileError("storage '{}' is a {}", key, class_name);
      uint64_t bytes = 0;
      if (__builtin_mul_overflow(stream.number<uint64_t>(), type->bytes(), &bytes))
        throw FileError("storage '{}' overflows", key);
      storages[key] = {content.blocks.size(), type, bytes, 0};
      content.blocks.push_back({.begin = stream.at(), .bytes = bytes, .big_endian = big_endian});
      stream.skip(bytes);
    }
    if (stream.left() > 0) {
      const Pickle views = stream.pickle();  // [(key, root's key, offset, numel), ...]
      for (const Id entry : views.items(views.root())) {
        const std::string root = key_of(views, views.item(entry, 1));
        const TorchStorage storage = storage_named(root);
        storages[key_of(views, views.item(entry, 0))] =
            part_of(storage, root, storage.type->bytes(), views, views.item(entry, 2),
                    views.item(entry, 3));
      }
    }

    std::map<std::string, StoredTensor> tensors;
    Stream list = open("tensors");
    for (uint64_t n = count(list, "tensors"); n > 0; --n) {
      const Pickle entry = list.pickle();  // (key, storage's key, class)
      const std::string key = key_of(entry, entry.item(entry.root(), 0));
      const TorchStorage storage = storage_named(key_of(entry, entry.item(entry.root(), 1)));
      const auto axes = list.number<int32_t>();
      list.skip(4);
      if (axes < 0 || axes > 32) throw FileError("tensor '{}': {} axes", key, axes);
      std::vector<int64_t> sizes = list.numbers(axes), strides = list.numbers(axes);
      const auto offset = list.number<int64_t>();
      tensors[key] =
          torch_view(key, storage, *storage.type, offset, std::move(sizes), std::move(strides));
    }
    content.warnings.push_back("this container has no checksums");

    const Pickle pickle = open("pickle").pickle();
    TorchState state(
        pickle, content,
        [&](Id persistent, std::string& opaque) -> std::optional<TorchStorage> {
          const Id id = pickle.item(persistent, 0);  // a module's class, its file and source
          opaque = pickle.is(id, Kind::tuple) ? std::string(pickle.text(pickle.item(id, 0))) : "?";
          return {};
        },
        [&](Id persistent) -> std::optional<StoredTensor> {
          const Id id = pickle.item(persistent, 0);
          if (pickle.is(id, Kind::tuple)) return {};
          const auto found = tensors.find(key_of(pickle, id));
          if (found == tensors.end()) throw FileError("no tensor '{}'", key_of(pickle, id));
          return found->second;
        });
    state.read();
    return content;
  });
}

// ---- writing

namespace {

// The opcodes of protocol 2 that a dictionary of tensors needs.
class PickleWriter {
 public:
  PickleWriter() { bytes_ = "\x80\x02"; }
  PickleWriter& op(std::string_view opcodes) {
    bytes_ += opcodes;
    return *this;
  }
  PickleWriter& global(std::string_view module, std::string_view name) {
    return op(fmt::format("c{}\n{}\n", module, name));
  }
  PickleWriter& text(std::string_view value) {
    op("X");
    raw(static_cast<uint32_t>(value.size()));
    return op(value);
  }
  PickleWriter& integer(int64_t value) {
    if (value >= 0 && value < 256) {
      op("K");
      raw(static_cast<uint8_t>(value));
    } else if (value >= 0 && value <= INT32_MAX) {
      op("J");
      raw(static_cast<int32_t>(value));
    } else {
      op("\x8a\x08");
      raw(value);
    }
    return *this;
  }
  PickleWriter& tuple(const std::vector<int64_t>& values) {
    op("(");
    for (const int64_t value : values) integer(value);
    return op("t");
  }
  std::string take() { return std::move(bytes_); }

 private:
  template <typename T>
  void raw(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  std::string bytes_;
};

}  // namespace

void save_pytorch(const std::filesystem::path& path, std::span<const PackedTensor> tensors) {
  PickleWriter pickle;
  pickle.global("collections", "OrderedDict").op(")R(");
  uint64_t bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const PackedTensor& tensor = tensors[i];
    const std::string storage = storage_class_of(*tensor.type);
    if (storage.empty())
      throw FileError(
          "tensor '{}': PyTorch's files have no storage of type {}; try --to safetensors",
          tensor.name, tensor.type->name);
    pickle.text(tensor.name).global("torch._utils", "_rebuild_tensor_v2").op("((");
    pickle.text("storage").global("torch", storage).text(std::to_string(i)).text("cpu");
    pickle.integer(static_cast<int64_t>(tensor.bytes.size() / tensor.type->bytes())).op("tQ");
    pickle.integer(0).tuple(tensor.shape).tuple(contiguous_strides(tensor.shape)).op("\x89");
    pickle.global("collections", "OrderedDict").op(")RtR");
    bytes += tensor.bytes.size();
  }
  pickle.op("u.");

  AtomicFile file(path, bytes);
  ZipWriter zip(file);
  zip.add("archive/data.pkl", pickle.take());
  zip.add("archive/byteorder", "little");
  for (size_t i = 0; i < tensors.size(); ++i)
    zip.add(fmt::format("archive/data/{}", i), tensors[i].bytes);
  zip.add("archive/version", fmt::format("{}\n", kWrittenZip));
  zip.finish();
  file.commit();
}

}  // namespace facet
