#include "tensor/pytorch_state.h"

#include <algorithm>
#include <cstring>

namespace facet {
namespace {

using Id = Pickle::Id;

constexpr size_t kMostVisits = size_t{4} << 20, kMostTensors = size_t{1} << 20;
constexpr size_t kDeepest = 64, kMostAxes = 32;
constexpr size_t kMostValues = 256, kLongestValue = 200, kDeepestValue = 2;
constexpr size_t kLongestName = 4096, kMostNameBytes = size_t{64} << 20;
constexpr uint64_t kLargestTensor = uint64_t{64} << 30;

struct NamedType {
  std::string_view name, type;
};
constexpr NamedType kStorages[] = {
    {"Double", "F64"},         {"Float", "F32"}, {"Half", "F16"}, {"BFloat16", "BF16"},
    {"ComplexFloat", "C64"},   {"Long", "I64"},  {"Int", "I32"},  {"Short", "I16"},
    {"ComplexDouble", "C128"}, {"Char", "I8"},   {"Byte", "U8"},  {"Bool", "BOOL"},
};
// Types without a storage class of their own: _rebuild_tensor_v3.
constexpr NamedType kTypes[] = {
    {"torch.uint16", "U16"},
    {"torch.uint32", "U32"},
    {"torch.uint64", "U64"},
    {"torch.float8_e5m2", "F8_E5M2"},
    {"torch.float8_e4m3fn", "F8_E4M3"},
    {"torch.float8_e8m0fnu", "F8_E8M0"},
    {"torch.float8_e4m3fnuz", "F8_E4M3FNUZ"},
    {"torch.float8_e5m2fnuz", "F8_E5M2FNUZ"},
};
constexpr NamedType kNumpyTypes[] = {
    {"f2", "F16"}, {"f4", "F32"},  {"f8", "F64"}, {"i1", "I8"},    {"i2", "I16"},
    {"i4", "I32"}, {"i8", "I64"},  {"u1", "U8"},  {"u2", "U16"},   {"u4", "U32"},
    {"u8", "U64"}, {"b1", "BOOL"}, {"c8", "C64"}, {"c16", "C128"},
};

const FileType* find(std::span<const NamedType> types, std::string_view name) {
  for (const NamedType& type : types)
    if (type.name == name) return find_file_type(type.type);
  return nullptr;
}

// "torch.cuda.FloatStorage" to "Float", with "Storage" or "Tensor" as its ending.
std::string_view torch_class(std::string_view name, std::string_view ending) {
  if (!name.starts_with("torch.") || !name.ends_with(ending)) return {};
  name.remove_prefix(6);
  for (const std::string_view module : {"cuda.", "storage."})
    if (name.starts_with(module)) name.remove_prefix(module.size());
  name.remove_suffix(ending.size());
  return name;
}

// Constants that say nothing about weights.
bool is_constant(std::string_view type) {
  return type == "torch.Size" || type == "torch.device" || type == "numpy.dtype" ||
         type == "torch.serialization._get_layout";
}

template <typename T>
std::string number_text(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return fmt::format("{}", value);
}

}  // namespace

const FileType* storage_type(std::string_view name) {
  return find(kStorages, torch_class(name, "Storage"));
}

bool is_untyped_storage(std::string_view name) {
  const std::string_view type = torch_class(name, "Storage");
  return type == "Untyped" || type == "_Untyped";
}

std::string storage_class_of(const FileType& type) {
  for (const NamedType& storage : kStorages)
    if (storage.type == type.name) return fmt::format("{}Storage", storage.name);
  return {};
}

StoredTensor torch_view(const std::string& name, const TorchStorage& storage, const FileType& type,
                        int64_t offset, std::vector<int64_t> sizes, std::vector<int64_t> strides) {
  const auto fail = [&](const std::string& what) {
    throw FileError("tensor '{}': {}", name, what);
  };
  if (sizes.size() != strides.size() || sizes.size() > kMostAxes)
    fail(fmt::format("{} sizes and {} strides, expected as many and at most {}", sizes.size(),
                     strides.size(), kMostAxes));
  if (offset < 0) fail(fmt::format("begins at element {}", offset));
  uint64_t bytes = type.bytes();
  __int128 last = offset;
  bool is_empty = false;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] < 0 || strides[i] < 0)
      fail(fmt::format("a size of {} with a stride of {}", sizes[i], strides[i]));
    is_empty = is_empty || sizes[i] == 0;
    const auto size = static_cast<uint64_t>(std::max<int64_t>(sizes[i], 1));
    if (__builtin_mul_overflow(bytes, size, &bytes) || bytes > kLargestTensor)
      fail(fmt::format("larger than {} GiB", kLargestTensor >> 30));
    last += static_cast<__int128>(size - 1) * strides[i];
  }
  const uint64_t elements = storage.bytes / type.bytes();
  if (!is_empty && last >= static_cast<__int128>(elements))
    fail(fmt::format("reaches beyond the {} elements of its storage", elements));
  if (storage.first % type.bytes() != 0) fail("begins inside an element");
  return {.name = name,
          .type = &type,
          .shape = std::move(sizes),
          .strides = std::move(strides),
          .offset = is_empty ? 0 : storage.first / type.bytes() + static_cast<uint64_t>(offset),
          .block = storage.block};
}

TorchState::TorchState(const Pickle& pickle, StoredContent& content, FindStorage find_storage,
                       FindTensor find_tensor)
    : pickle_(pickle),
      content_(content),
      find_storage_(std::move(find_storage)),
      find_tensor_(std::move(find_tensor)) {}

template <typename... Args>
void TorchState::fail(fmt::format_string<Args...> format, Args&&... args) const {
  throw FileError("tensor '{}': {}", path_, fmt::format(format, std::forward<Args>(args)...));
}

// ---- the walk

std::string TorchState::key_text(const Child& child) const {
  if (child.key == Pickle::kNone) return std::to_string(child.index);
  switch (pickle_.kind(child.key)) {
    case Kind::text: return std::string(pickle_.text(child.key));
    case Kind::integer: return std::to_string(pickle_.integer(child.key));
    case Kind::boolean: return pickle_.integer(child.key) ? "True" : "False";
    default: return "?";
  }
}

std::vector<TorchState::Child> TorchState::children(Id id) const {
  std::vector<Child> list;
  const auto add = [&](Id container) {
    const std::span<const Id> items = pickle_.items(container);
    if (pickle_.is(container, Kind::dict))
      for (size_t i = 0; i < items.size(); i += 2) list.push_back({items[i], items[i + 1], i / 2});
    else if (pickle_.is(container, Kind::tuple) || pickle_.is(container, Kind::list))
      for (size_t i = 0; i < items.size(); ++i) list.push_back({Pickle::kNone, items[i], i});
  };
  if (pickle_.is(id, Kind::object))
    for (const Id part :
         {pickle_.arguments(id), pickle_.state(id), pickle_.entries(id), pickle_.elements(id)})
      add(part);
  else
    add(id);
  return list;
}

void TorchState::read() {
  struct Frame {
    Id id;
    std::vector<Child> children;
    size_t next, path;
  };
  std::vector<Frame> frames;
  std::vector<bool> on_path(pickle_.size());
  size_t visits = 0;
  bool is_too_deep = false;
  const auto enter = [&](Id id) {
    if (!visit(id, frames.size()) || on_path[id]) return;  // nothing in it, or inside itself
    std::vector<Child> inside = children(id);
    if (inside.empty()) return;
    if (frames.size() >= kDeepest) {
      is_too_deep = true;
      return;
    }
    visits += inside.size();
    if (visits > kMostVisits) throw FileError("more than {} objects when spread out", kMostVisits);
    on_path[id] = true;
    frames.push_back({id, std::move(inside), 0, path_.size()});
  };
  enter(pickle_.root());
  while (!frames.empty()) {
    Frame& frame = frames.back();
    path_.resize(frame.path);
    if (frame.next == frame.children.size()) {
      on_path[frame.id] = false;
      frames.pop_back();
      continue;
    }
    const Child child = frame.children[frame.next++];
    if (!path_.empty()) path_ += '.';
    path_ += key_text(child);
    enter(child.value);
  }
  if (is_too_deep)
    content_.warnings.push_back(fmt::format("nested deeper than {}: not all is listed", kDeepest));
  content_.opaque.insert(content_.opaque.end(), opaque_.begin(), opaque_.end());
}

bool TorchState::visit(Id id, size_t depth) {
  if (path_.size() > kLongestName) fail("a name of {} bytes", path_.size());
  if (auto found = tensor(id)) {
    found->name = path_.empty() ? "tensor" : path_;
    name_bytes_ += path_.size();
    if (content_.tensors.size() >= kMostTensors || name_bytes_ > kMostNameBytes)
      fail("more than {} tensors, or {} bytes of names", kMostTensors, kMostNameBytes);
    content_.tensors.push_back(std::move(*found));
    return false;
  }
  switch (pickle_.kind(id)) {
    case Kind::none: add_value(depth, "None"); return false;
    case Kind::boolean: add_value(depth, pickle_.integer(id) ? "True" : "False"); return false;
    case Kind::integer: add_value(depth, std::to_string(pickle_.integer(id))); return false;
    case Kind::real: add_value(depth, fmt::format("{}", pickle_.real(id))); return false;
    case Kind::text: add_value(depth, std::string(pickle_.text(id))); return false;
    case Kind::global:
      if (!pickle_.text(id).starts_with("torch.")) add_opaque(std::string(pickle_.text(id)));
      return false;
    case Kind::object: return visit_object(id, depth);
    default: return true;
  }
}

bool TorchState::visit_object(Id id, size_t depth) {
  const std::string type = type_name(id);
  if (is_constant(type)) return false;
  if (type.starts_with("numpy.") && type.ends_with(".multiarray.scalar")) {
    add_value(depth, numpy_scalar(id));
    return false;
  }
  add_opaque(type);
  if (type.starts_with("pathlib.")) {
    std::string whole;
    for (const Id part : pickle_.items(pickle_.arguments(id))) {
      if (!whole.empty() && !whole.ends_with('/')) whole += '/';
      whole += pickle_.text(part);
    }
    add_value(depth, whole);
    return false;
  }
  return !type.starts_with("torch._utils.") && !type.starts_with("numpy.");
}

void TorchState::add_value(size_t depth, std::string text) {
  if (depth == 0 || depth > kDeepestValue || content_.metadata.size() >= kMostValues) return;
  if (text.size() > kLongestValue) text = text.substr(0, kLongestValue) + "...";
  content_.metadata.try_emplace(path_, std::move(text));
}

std::string TorchState::type_name(Id object) const {
  const std::string_view name = pickle_.type(object);
  return name.empty() ? "object" : std::string(name);
}

// ---- tensors

std::optional<StoredTensor> TorchState::tensor(Id id, int depth) {
  if (depth > 8) return {};
  if (pickle_.is(id, Kind::persistent)) {
    if (find_tensor_)
      if (auto found = find_tensor_(id)) return found;
    std::string opaque;
    if (!find_storage_(id, opaque)) add_opaque(std::move(opaque));
    return {};  // a storage by itself
  }
  if (!pickle_.is(id, Kind::object)) return {};
  const std::string_view type = pickle_.type(id);
  if (type.starts_with("numpy.") && type.ends_with(".multiarray._reconstruct"))
    return numpy_array(id);
  auto found = rebuild(type, pickle_.arguments(id), depth);
  const bool is_class = type == "torch.nn.parameter.Parameter" ||
                        type == "torch.autograd.variable.Variable" ||
                        !torch_class(type, "Tensor").empty();
  if (!found && is_class) {
    // Old forms: the tensor as first argument, or storage, offset, size and stride as state.
    const Id state = pickle_.state(id);
    if (pickle_.is(pickle_.item(state, 0), Kind::persistent))
      found = view(pickle_.item(state, 0), pickle_.item(state, 1), pickle_.item(state, 2),
                   pickle_.item(state, 3));
    else
      found = tensor(pickle_.item(pickle_.arguments(id), 0), depth + 1);
  }
  if (found && (pickle_.entries(id) != Pickle::kNone || pickle_.elements(id) != Pickle::kNone))
    fail("the file puts items into a tensor");
  return found;
}

std::optional<StoredTensor> TorchState::rebuild(std::string_view function, Id arguments,
                                                int depth) {
  const auto argument = [&](size_t i) { return pickle_.item(arguments, i); };
  if (function == "torch._utils._rebuild_tensor_v2" || function == "torch._utils._rebuild_tensor")
    return view(argument(0), argument(1), argument(2), argument(3));
  if (function == "torch._utils._rebuild_tensor_v3") {
    const std::string_view name = pickle_.text(argument(6));
    const FileType* type = find(kTypes, name);
    if (!type) {
      add_opaque(std::string(name));
      return {};
    }
    return view(argument(0), argument(1), argument(2), argument(3), type);
  }
  if (function == "torch._utils._rebuild_parameter" ||
      function == "torch._utils._rebuild_parameter_with_state")
    return tensor(argument(0), depth + 1);
  if (function == "torch._tensor._rebuild_from_type_v2" ||
      function == "torch._tensor._rebuild_from_type")
    return depth > 8 ? std::nullopt : rebuild(pickle_.text(argument(0)), argument(2), depth + 1);
  return {};
}

std::vector<int64_t> TorchState::extents(Id id) const {
  if (pickle_.is(id, Kind::object) && pickle_.type(id) == "torch.Size")
    id = pickle_.item(pickle_.arguments(id), 0);
  if (!pickle_.is(id, Kind::tuple) && !pickle_.is(id, Kind::list))
    fail("sizes or strides that are no tuple");
  std::vector<int64_t> values;
  if (pickle_.items(id).size() > kMostAxes)
    fail("{} axes, expected at most {}", pickle_.items(id).size(), kMostAxes);
  for (const Id item : pickle_.items(id)) {
    if (!pickle_.is(item, Kind::integer)) fail("a size that is no integer");
    values.push_back(pickle_.integer(item));
  }
  return values;
}

std::optional<StoredTensor> TorchState::view(Id persistent, Id offset, Id sizes, Id strides,
                                             const FileType* type) {
  if (!pickle_.is(persistent, Kind::persistent)) fail("made from something else than a storage");
  if (!pickle_.is(offset, Kind::integer)) fail("an offset that is no integer");
  std::string opaque;
  const auto storage = find_storage_(persistent, opaque);
  if (!storage) {
    add_opaque(std::move(opaque));
    return {};
  }
  if (!type) type = storage->type ? storage->type : find_file_type("U8");
  return torch_view(path_, *storage, *type, pickle_.integer(offset), extents(sizes),
                    extents(strides));
}

// ---- NumPy

// numpy.dtype('f8', False, True) with the state (3, '<', ...).
const FileType* TorchState::numpy_type(Id dtype, bool& big_endian) const {
  if (!pickle_.is(dtype, Kind::object) || pickle_.type(dtype) != "numpy.dtype") return nullptr;
  std::string_view name = pickle_.text(pickle_.item(pickle_.arguments(dtype), 0));
  std::string_view order = pickle_.text(pickle_.item(pickle_.state(dtype), 1));
  if (!name.empty() && std::string_view("<>|=").find(name[0]) != std::string_view::npos) {
    if (order.empty()) order = name.substr(0, 1);
    name.remove_prefix(1);
  }
  big_endian = order == ">";
  return find(kNumpyTypes, name);
}

std::optional<StoredTensor> TorchState::numpy_array(Id object) {
  const Id state = pickle_.state(object), data = pickle_.item(state, 4);
  const Id fortran = pickle_.item(state, 3);
  bool big_endian = false;
  const FileType* const type = numpy_type(pickle_.item(state, 2), big_endian);
  const bool is_data = pickle_.is(data, Kind::bytes) || pickle_.is(data, Kind::text);
  if (!type || !is_data) return {};  // of strings or objects
  std::vector<int64_t> shape = extents(pickle_.item(state, 1));
  std::vector<int64_t> strides = contiguous_strides(
      shape, pickle_.is(fortran, Kind::boolean) && pickle_.integer(fortran) != 0);
  // Arrays that share their bytes share the block.
  const auto [known, is_new] = arrays_.try_emplace(data, content_.blocks.size());
  if (is_new)
    content_.blocks.push_back({.in = StoredBlock::In::memory,
                               .bytes = pickle_.text(data).size(),
                               .content = std::string(pickle_.text(data)),
                               .big_endian = big_endian});
  const TorchStorage storage{known->second, type, pickle_.text(data).size(), 0};
  return torch_view(path_, storage, *type, 0, std::move(shape), std::move(strides));
}

std::string TorchState::numpy_scalar(Id object) const {
  bool big_endian = false;
  const Id arguments = pickle_.arguments(object);
  const FileType* const type = numpy_type(pickle_.item(arguments, 0), big_endian);
  std::string bytes(pickle_.text(pickle_.item(arguments, 1)));
  if (!type || bytes.size() != type->bytes()) return "?";
  if (big_endian) std::reverse(bytes.begin(), bytes.end());
  const std::string_view name = type->name;
  if (name == "F64") return number_text<double>(bytes);
  if (name == "F32") return number_text<float>(bytes);
  if (name == "I64") return number_text<int64_t>(bytes);
  if (name == "I32") return number_text<int32_t>(bytes);
  if (name == "BOOL") return bytes[0] ? "True" : "False";
  return "?";
}

}  // namespace facet
