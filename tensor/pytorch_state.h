// What a pickle that PyTorch wrote says: tensors, plain values, and objects that are passed over.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tensor/pickle.h"
#include "tensor/stored_tensor.h"

namespace facet {

// Where a storage that a pickle speaks of lies.
struct TorchStorage {
  size_t block = 0;
  const FileType* type = nullptr;  // null: of untyped bytes
  uint64_t bytes = 0;
  uint64_t first = 0;  // byte of the block
};

// "torch.FloatStorage" and the like; null for those that cannot be read (quantised ones).
const FileType* storage_type(std::string_view name);
bool is_untyped_storage(std::string_view name);
std::string storage_class_of(const FileType& type);  // "FloatStorage"; empty: there is none

// Fills name, shape and strides; throws FileErrors without the file's name where the view does not
// fit the storage.
StoredTensor torch_view(const std::string& name, const TorchStorage& storage, const FileType& type,
                        int64_t offset, std::vector<int64_t> sizes, std::vector<int64_t> strides);

class TorchState {
 public:
  // What an object outside of the pickle is: a storage, or (in tar files) a whole tensor.
  // Nothing: it is passed over, as the type that `opaque` then names.
  using FindStorage =
      std::function<std::optional<TorchStorage>(Pickle::Id persistent, std::string& opaque)>;
  using FindTensor = std::function<std::optional<StoredTensor>(Pickle::Id persistent)>;

  TorchState(const Pickle& pickle, StoredContent& content, FindStorage find_storage,
             FindTensor find_tensor = {});
  // Walks everything and adds what there is to the content.
  void read();

 private:
  using Id = Pickle::Id;
  using Kind = Pickle::Kind;
  struct Child {
    Id key, value;  // key kNone: the index names it
    size_t index;
  };

  std::vector<Child> children(Id id) const;
  std::string key_text(const Child& child) const;
  bool visit(Id id, size_t depth);  // whether to look inside
  bool visit_object(Id id, size_t depth);
  std::optional<StoredTensor> tensor(Id id, int depth = 0);
  std::optional<StoredTensor> rebuild(std::string_view function, Id arguments, int depth);
  std::optional<StoredTensor> view(Id persistent, Id offset, Id sizes, Id strides,
                                   const FileType* type = nullptr);
  std::optional<StoredTensor> numpy_array(Id object);
  std::string numpy_scalar(Id object) const;
  const FileType* numpy_type(Id dtype, bool& big_endian) const;
  std::vector<int64_t> extents(Id id) const;
  std::string type_name(Id object) const;
  void add_opaque(std::string name) { opaque_.insert(std::move(name)); }
  void add_value(size_t depth, std::string text);
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const;

  const Pickle& pickle_;
  StoredContent& content_;
  FindStorage find_storage_;
  FindTensor find_tensor_;
  std::string path_;  // of what is being visited
  std::set<std::string> opaque_;
  std::unordered_map<Id, size_t> arrays_;  // NumPy's bytes to their block
  size_t name_bytes_ = 0;
};

}  // namespace facet
