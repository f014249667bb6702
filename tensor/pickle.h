// Python pickles as data. Nothing is imported or called: what a pickle would call is recorded as
// an object with its arguments, for others to give a meaning or to pass over.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tensor/check.h"

namespace facet {

// The pickle goes on behind the bytes given.
class PickleTruncated : public FileError {
 public:
  using FileError::FileError;
};

// One pickle of protocol 0 to 5, as a graph: nodes may be shared and lists may hold themselves, so
// that a walk must count its steps. Every length is checked before anything of its size is made.
class Pickle {
 public:
  static constexpr uint64_t kLargest = uint64_t{256} << 20;  // bytes

  enum class Kind : uint8_t {
    none,
    boolean,     // integer() is 0 or 1
    integer,     // of at most 64 bits
    real,        //
    text,        // UTF-8 as it stands; byte strings of Python 2, too
    bytes,       //
    tuple,       // items
    list,        // items
    set,         // items
    dict,        // items: key, value, key, value ...; also OrderedDict, defaultdict, Counter
    global,      // text: "module.name"
    persistent,  // items: what stands for an object outside
    object,      // of anything else; see below
  };
  using Id = uint32_t;
  static constexpr Id kNone = 0;

  // Reads the pickle that `bytes` begin with. Throws PickleTruncated where they end too early, and
  // FileErrors that name byte and opcode but not the file. Moves `position` behind the pickle.
  // `allowed`: which "module.name" may be in it; any without it.
  using Allowed = bool (*)(std::string_view global);
  explicit Pickle(std::string bytes, uint64_t* position = nullptr, Allowed allowed = nullptr);
  Pickle(const Pickle&) = delete;  // texts point into the bytes
  Pickle& operator=(const Pickle&) = delete;

  Id root() const { return root_; }
  size_t length() const { return at_; }  // bytes read
  Id size() const { return static_cast<Id>(nodes_.size()); }

  Kind kind(Id id) const { return nodes_[id].kind; }
  bool is(Id id, Kind kind) const { return nodes_[id].kind == kind; }
  int64_t integer(Id id) const { return nodes_[id].integer; }
  double real(Id id) const { return nodes_[id].real; }
  std::string_view text(Id id) const { return nodes_[id].text; }
  std::span<const Id> items(Id id) const;
  // Item i of a tuple or list; kNone where there is none.
  Id item(Id id, size_t i) const { return i < items(id).size() ? items(id)[i] : kNone; }

  // Of objects: what would have been called with which arguments, the state set afterwards, and
  // what was put into it.
  Id callable(Id object) const { return items(object)[0]; }
  Id arguments(Id object) const { return items(object)[1]; }
  Id state(Id object) const { return items(object)[2]; }
  Id entries(Id object) const { return items(object)[3]; }   // a dict, or kNone
  Id elements(Id object) const { return items(object)[4]; }  // a list, or kNone
  std::string_view type(Id object) const { return text(callable(object)); }

 private:
  struct Node {
    Kind kind = Kind::none;
    uint32_t children = 0;  // in children_; 0: none yet
    union {
      int64_t integer = 0;
      double real;
    };
    std::string_view text;
  };

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const;
  void run();
  bool step(uint8_t opcode);  // false: that was the last

  std::string_view take(uint64_t n);
  std::string_view line();
  template <typename T>
  T number();
  Id add(Kind kind, std::string_view text = {});
  Id add_integer(int64_t value, Kind kind = Kind::integer);
  Id add_items(Kind kind, std::vector<Id> items);
  Id add_global(std::string_view module, std::string_view name);
  Id add_long(std::string_view bytes);
  Id add_decimal(std::string_view text);
  std::string_view keep(std::string text);
  std::vector<Id>& mutable_items(Id id);
  void push(Id id);
  Id pop();
  std::vector<Id> pop_to_mark();
  Id top() const;
  void put(uint64_t index);
  void get(uint64_t index);
  Id call(Id callable, Id arguments);
  void extend(Id container, Kind kind, std::span<const Id> values, const char* misuse);
  void append(std::span<const Id> values);
  void set_items(Id target, std::span<const Id> pairs);
  void build(Id target, Id state);
  std::string unescaped(std::string_view text, bool is_unicode) const;

  std::string bytes_;
  Allowed allowed_;
  size_t at_ = 0, opcode_at_ = 0;
  std::vector<Node> nodes_;
  std::vector<std::vector<Id>> children_;
  std::deque<std::string> kept_;  // texts that are not in bytes_ as they stand
  std::unordered_map<std::string, Id> globals_;
  std::vector<Id> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, Id> memo_;
  Id root_ = kNone;
};

}  // namespace facet
