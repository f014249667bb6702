#include "data/cifar_python.h"

#include <deque>
#include <optional>

#include "tensor/check.h"

namespace facet {
namespace {

struct Value {
  enum Kind : uint8_t { none, number, text, sequence, dictionary, global, object } kind = none;
  int64_t value = 0;
  std::string_view bytes = {};
  std::vector<Value*> items = {};  // of a dictionary: key, value, key, value ...
};

// A stack machine over a pickle. Values live until it goes, so that depth costs nothing.
class Machine {
 public:
  Machine(std::string_view bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  const Value& run() {
    while (true) {
      const auto code = static_cast<unsigned char>(take(1)[0]);
      if (code == '.') return *pop();
      step(code);
    }
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw FileError(
        fmt::format("{}: no batch of CIFAR's Python version: {} at byte {}", file_, what, at_));
  }

 private:
  std::string_view take(size_t count) {
    if (count > bytes_.size() - at_) fail("it ends too early");
    at_ += count;
    return bytes_.substr(at_ - count, count);
  }
  uint32_t take_number(size_t count) {
    uint32_t value = 0;
    const std::string_view digits = take(count);
    for (size_t i = 0; i < count; ++i)
      value |= static_cast<uint32_t>(static_cast<unsigned char>(digits[i])) << (8 * i);
    return value;
  }
  std::string_view take_line() {
    const size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) fail("a line without end");
    const std::string_view line = take(end - at_);
    take(1);
    return line;
  }

  Value* make(Value value) {
    values_.push_back(std::move(value));
    return &values_.back();
  }
  void push(Value value) { stack_.push_back(make(std::move(value))); }
  Value* pop() {
    if (stack_.empty() || (!marks_.empty() && marks_.back() >= stack_.size()))
      fail("an empty stack");
    Value* const top = stack_.back();
    stack_.pop_back();
    return top;
  }
  Value* top() {
    Value* const value = pop();
    stack_.push_back(value);
    return value;
  }
  std::vector<Value*> pop_to_mark() {
    if (marks_.empty()) fail("no mark");
    const auto from = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Value*> items(from, stack_.end());
    stack_.erase(from, stack_.end());
    marks_.pop_back();
    return items;
  }
  void push_tuple(size_t count) {
    std::vector<Value*> items(count);
    for (size_t i = count; i > 0; --i) items[i - 1] = pop();
    push({Value::sequence, 0, {}, std::move(items)});
  }
  void append(Value::Kind kind) {
    const std::vector<Value*> items = pop_to_mark();
    Value* const to = top();
    if (to->kind != kind || (kind == Value::dictionary && items.size() % 2)) fail("a wrong list");
    to->items.insert(to->items.end(), items.begin(), items.end());
  }
  void remember(size_t slot) {
    if (slot > bytes_.size()) fail("a memo of unreasonable size");
    if (slot >= memo_.size()) memo_.resize(slot + 1);
    memo_[slot] = top();
  }
  void recall(size_t slot) {
    if (slot >= memo_.size() || !memo_[slot]) fail("an unknown memo");
    stack_.push_back(memo_[slot]);
  }

  void step(unsigned char code) {
    switch (code) {
      case 0x80:  // PROTO
        if (take(1)[0] > 2) fail("a newer protocol than Python 2's");
        return;
      case '(': return marks_.push_back(stack_.size());
      case 'N': return push({});
      case 0x88: return push({Value::number, 1});  // NEWTRUE
      case 0x89: return push({Value::number, 0});
      case 'K': return push({Value::number, take_number(1)});
      case 'M': return push({Value::number, take_number(2)});
      case 'J': return push({Value::number, static_cast<int32_t>(take_number(4))});
      case 'U': return push({Value::text, 0, take(take_number(1))});
      case 'T': return push({Value::text, 0, take(take_number(4))});
      case ']': return push({Value::sequence});
      case ')': return push({Value::sequence});
      case '}': return push({Value::dictionary});
      case 't': return push({Value::sequence, 0, {}, pop_to_mark()});
      case 0x85: return push_tuple(1);
      case 0x86: return push_tuple(2);
      case 0x87: return push_tuple(3);
      case 'a': {
        Value* const item = pop();
        if (top()->kind != Value::sequence) fail("a wrong list");
        return top()->items.push_back(item);
      }
      case 'e': return append(Value::sequence);
      case 'u': return append(Value::dictionary);
      case 's': {
        Value* const value = pop();
        Value* const key = pop();
        if (top()->kind != Value::dictionary) fail("a wrong dictionary");
        top()->items.insert(top()->items.end(), {key, value});
        return;
      }
      case 'q': return remember(take_number(1));
      case 'r': return remember(take_number(4));
      case 'h': return recall(take_number(1));
      case 'j': return recall(take_number(4));
      case 'c': {
        std::string name(take_line());  // one after the other: operands of + have no order
        name += '.';
        name += take_line();
        if (name != "numpy.core.multiarray._reconstruct" && name != "numpy.ndarray" &&
            name != "numpy.dtype")
          fail("the name " + name);
        return push({Value::global});
      }
      case 'R': {  // an array or its type: what it is made of
        Value* const arguments = pop();
        if (pop()->kind != Value::global) fail("a call of no known name");
        return push({Value::object, 0, {}, {arguments}});
      }
      case 'b': {
        Value* const state = pop();
        if (top()->kind != Value::object) fail("a wrong state");
        return top()->items.push_back(state);
      }
      default: fail(fmt::format("opcode {:#04x}", code));
    }
  }

  std::string_view bytes_;
  const std::string& file_;
  size_t at_ = 0;
  std::deque<Value> values_;
  std::vector<Value*> stack_, memo_;
  std::vector<size_t> marks_;
};

}  // namespace

CifarPickle parse_cifar_pickle(std::string_view bytes, const std::string& file) {
  Machine machine(bytes, file);
  const Value& root = machine.run();
  if (root.kind != Value::dictionary) machine.fail("no dictionary");
  CifarPickle result;
  for (size_t i = 0; i + 1 < root.items.size(); i += 2) {
    const std::string key(root.items[i]->bytes);
    const Value& value = *root.items[i + 1];
    if (key == "data") {
      // (arguments, (version, (rows, columns), type, fortran, bytes)); the type's first argument is
      // its name
      if (value.kind != Value::object || value.items.size() != 2 ||
          value.items[1]->items.size() != 5)
        machine.fail("no array 'data'");
      const std::vector<Value*>& state = value.items[1]->items;
      const Value& type = *state[2];
      const bool is_bytes = type.kind == Value::object && !type.items[0]->items.empty() &&
                            type.items[0]->items[0]->bytes == "u1";
      if (state[1]->items.size() != 2 || !is_bytes) machine.fail("'data' is no matrix of bytes");
      result.rows = state[1]->items[0]->value;
      result.columns = state[1]->items[1]->value;
      result.fortran = state[3]->value != 0;
      result.data = state[4]->bytes;
      int64_t numel = 0;
      if (result.rows < 0 || result.columns < 0 ||
          __builtin_mul_overflow(result.rows, result.columns, &numel) ||
          numel != static_cast<int64_t>(result.data.size()))
        machine.fail(fmt::format("{} bytes of 'data' for {} x {}", result.data.size(), result.rows,
                                 result.columns));
    } else if (value.kind == Value::sequence) {
      for (const Value* item : value.items)
        if (item->kind == Value::number)
          result.numbers[key].push_back(item->value);
        else if (item->kind == Value::text)
          result.texts[key].emplace_back(item->bytes);
    }
  }
  return result;
}

}  // namespace facet
