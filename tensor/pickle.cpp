#include "tensor/pickle.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>

#include "tensor/text.h"

namespace facet {
namespace {

constexpr size_t kMostNodes = size_t{16} << 20, kDeepestStack = size_t{1} << 20;
constexpr size_t kMostMarks = 4096;
constexpr uint64_t kLargestMemo = uint64_t{1} << 24;
constexpr size_t kLongestInteger = 17;  // 128 bits and a sign: states of random generators

// Bytes that protocol 2 writes as the text of as many characters; nothing where one is above 255.
bool from_latin1(std::string_view text, std::string& bytes) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<uint8_t>(text[i]);
    if (c < 0x80) {
      bytes += static_cast<char>(c);
    } else {
      if ((c & 0xFC) != 0xC0 || i + 1 == text.size()) return false;
      bytes += static_cast<char>((c & 3) << 6 | (static_cast<uint8_t>(text[++i]) & 0x3F));
    }
  }
  return true;
}

}  // namespace

Pickle::Pickle(std::string bytes, uint64_t* position, Allowed allowed)
    : bytes_(std::move(bytes)), allowed_(allowed), nodes_(1), children_(1) {
  run();
  if (position) *position += at_;
}

std::span<const Pickle::Id> Pickle::items(Id id) const {
  return children_[nodes_[id].children];
}

template <typename... Args>
void Pickle::fail(fmt::format_string<Args...> format, Args&&... args) const {
  const int opcode = opcode_at_ < bytes_.size() ? static_cast<uint8_t>(bytes_[opcode_at_]) : 0;
  throw FileError("pickle, byte {}, opcode {:#04x}: {}", opcode_at_, opcode,
                  fmt::format(format, std::forward<Args>(args)...));
}

void Pickle::run() {
  do {
    opcode_at_ = at_;
  } while (step(static_cast<uint8_t>(take(1)[0])));
  stack_.clear();
  memo_.clear();
}

// ---- operands

std::string_view Pickle::take(uint64_t n) {
  if (n > kLargest) fail("{} bytes, expected at most {}", n, kLargest);
  if (n > bytes_.size() - at_)
    throw PickleTruncated(fmt::format("pickle, byte {}: {} bytes expected, {} left: truncated?",
                                      opcode_at_, n, bytes_.size() - at_));
  const std::string_view taken = std::string_view(bytes_).substr(at_, n);
  at_ += n;
  return taken;
}

std::string_view Pickle::line() {
  const size_t end = bytes_.find('\n', at_);
  if (end == std::string::npos)
    throw PickleTruncated(
        fmt::format("pickle, byte {}: a line does not end: truncated?", opcode_at_));
  const std::string_view text = take(end - at_);
  ++at_;
  return text;
}

template <typename T>
T Pickle::number() {
  T value;
  std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
  return value;
}

// ---- nodes

Pickle::Id Pickle::add(Kind kind, std::string_view text) {
  if (nodes_.size() >= kMostNodes) fail("more than {} objects", kMostNodes);
  Node& node = nodes_.emplace_back();
  node.kind = kind;
  node.text = text;
  return static_cast<Id>(nodes_.size() - 1);
}

Pickle::Id Pickle::add_integer(int64_t value, Kind kind) {
  const Id id = add(kind);
  nodes_[id].integer = value;
  return id;
}

Pickle::Id Pickle::add_items(Kind kind, std::vector<Id> items) {
  const Id id = add(kind);
  if (!items.empty()) mutable_items(id) = std::move(items);
  return id;
}

std::vector<Pickle::Id>& Pickle::mutable_items(Id id) {
  Node& node = nodes_[id];
  if (node.children == 0) {
    node.children = static_cast<uint32_t>(children_.size());
    children_.emplace_back();
  }
  return children_[node.children];
}

std::string_view Pickle::keep(std::string text) {
  return kept_.emplace_back(std::move(text));
}

Pickle::Id Pickle::add_global(std::string_view module, std::string_view name) {
  const std::string whole = fmt::format("{}.{}", module, name);
  if (allowed_ && !allowed_(whole)) fail("the name {}", whole);
  const auto [found, is_new] = globals_.try_emplace(whole, kNone);
  if (is_new) found->second = add(Kind::global, found->first);
  return found->second;
}

Pickle::Id Pickle::add_long(std::string_view bytes) {
  if (bytes.size() > kLongestInteger)
    fail("an integer of {} bytes, expected at most {}", bytes.size(), kLongestInteger);
  if (bytes.size() > 8)  // passed over, as any type that is not known
    return add_items(Kind::object, {add_global("builtins", "int"), kNone, kNone, kNone, kNone});
  uint64_t value = !bytes.empty() && (bytes.back() & 0x80) ? ~uint64_t{0} : 0;
  std::memcpy(&value, bytes.data(), bytes.size());
  return add_integer(static_cast<int64_t>(value));
}

Pickle::Id Pickle::add_decimal(std::string_view text) {
  if (text.ends_with('L')) text.remove_suffix(1);
  const auto value = to_number<int64_t>(text);
  if (!value) fail("not an integer");
  return add_integer(*value);
}

// ---- the machine

void Pickle::push(Id id) {
  if (stack_.size() >= kDeepestStack) fail("a stack deeper than {}", kDeepestStack);
  stack_.push_back(id);
}

Pickle::Id Pickle::top() const {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("the stack is empty");
  return stack_.back();
}

Pickle::Id Pickle::pop() {
  const Id id = top();
  stack_.pop_back();
  return id;
}

std::vector<Pickle::Id> Pickle::pop_to_mark() {
  if (marks_.empty()) fail("no mark on the stack");
  const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<Id> items(begin, stack_.end());
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return items;
}

void Pickle::put(uint64_t index) {
  if (index > kLargestMemo) fail("memo {}, expected at most {}", index, kLargestMemo);
  memo_[static_cast<uint32_t>(index)] = top();
}

void Pickle::get(uint64_t index) {
  const auto found = index > kLargestMemo ? memo_.end() : memo_.find(static_cast<uint32_t>(index));
  if (found == memo_.end()) fail("nothing was remembered as {}", index);
  push(found->second);
}

// The containers of Python itself become nodes of their own.
Pickle::Id Pickle::call(Id callable, Id arguments) {
  if (!is(callable, Kind::global) && !is(callable, Kind::object)) fail("not callable");
  if (!is(arguments, Kind::tuple)) fail("arguments that are no tuple");
  std::string_view name = text(callable);
  const Id first = item(arguments, 0);
  if (name.starts_with("__builtin__.")) name.remove_prefix(12);
  if (name.starts_with("builtins.")) name.remove_prefix(9);
  if (name == "collections.OrderedDict" || name == "collections.Counter" ||
      name == "collections.defaultdict" || name == "dict") {
    const Id dict = add(Kind::dict);
    if (is(first, Kind::dict))
      set_items(dict, std::vector(items(first).begin(), items(first).end()));
    if (is(first, Kind::list))
      for (const Id pair : std::vector(items(first).begin(), items(first).end())) {
        if (items(pair).size() != 2) fail("a dictionary from something else than pairs");
        set_items(dict, std::vector(items(pair).begin(), items(pair).end()));
      }
    return dict;
  }
  if (name == "set" || name == "frozenset")
    return add_items(Kind::set, std::vector(items(first).begin(), items(first).end()));
  if (name == "_codecs.encode" || name == "bytearray" || name == "bytes") {
    if (is(first, Kind::bytes)) return add(Kind::bytes, text(first));
    std::string bytes;
    if (!from_latin1(text(first), bytes)) fail("text of more than bytes");
    return add(Kind::bytes, keep(std::move(bytes)));
  }
  // Old classes are made by a helper whose first argument is the class.
  if (name == "copy_reg._reconstructor" || name == "copyreg._reconstructor") callable = first;
  return add_items(Kind::object, {callable, arguments, kNone, kNone, kNone});
}

// Puts values into a container of this kind; an object has a list and a dict of its own for them.
void Pickle::extend(Id container, Kind kind, std::span<const Id> values, const char* misuse) {
  if (is(container, Kind::object) && kind != Kind::set) {
    const size_t place = kind == Kind::dict ? 3 : 4;
    if (items(container)[place] == kNone) {
      const Id made = add(kind);
      mutable_items(container)[place] = made;
    }
    container = items(container)[place];
  }
  if (!is(container, kind)) fail("{}", misuse);
  std::vector<Id>& items = mutable_items(container);
  items.insert(items.end(), values.begin(), values.end());
}

void Pickle::append(std::span<const Id> values) {
  extend(top(), Kind::list, values, "appends to what is no list");
}

void Pickle::set_items(Id target, std::span<const Id> pairs) {
  if (pairs.size() % 2 != 0) fail("a key without a value");
  extend(target, Kind::dict, pairs, "sets an item of what is no dictionary");
}

void Pickle::build(Id target, Id state) {
  if (is(target, Kind::object))
    mutable_items(target)[2] = state;
  else if (!is(target, Kind::dict))  // a state dict's carries versions, which nobody needs
    fail("sets the state of what has none");
}

// What a string literal of protocol 0 says.
std::string Pickle::unescaped(std::string_view text, bool is_unicode) const {
  std::string result;
  while (!text.empty()) {
    const size_t plain = std::min(text.find('\\'), text.size());
    result += text.substr(0, plain);
    text.remove_prefix(plain);
    if (text.empty()) break;
    const char kind = text.size() > 1 ? text[1] : '\0';
    const bool is_code = kind == 'u' || kind == 'U' || (kind == 'x' && !is_unicode);
    if (is_code) {
      const size_t digits = kind == 'x' ? 2 : kind == 'u' ? 4 : 8;
      uint32_t code = 0;
      const char* const begin = text.data() + 2;
      if (text.size() < 2 + digits ||
          std::from_chars(begin, begin + digits, code, 16).ptr != begin + digits || code > 0x10FFFF)
        fail("a bad escape in a text");
      if (kind == 'x')
        result += static_cast<char>(code);
      else
        append_utf8(result, code);
      text.remove_prefix(2 + digits);
    } else if (is_unicode || kind == '\0') {
      result += '\\';
      text.remove_prefix(1);
    } else {
      result += kind == 'n' ? '\n' : kind == 't' ? '\t' : kind == 'r' ? '\r' : kind;
      text.remove_prefix(2);
    }
  }
  return result;
}

bool Pickle::step(uint8_t opcode) {
  const auto tuple_of = [&](size_t n) {
    std::vector<Id> items(n);
    while (n-- > 0) items[n] = pop();
    push(add_items(Kind::tuple, std::move(items)));
  };
  const auto counted = [&](auto length, Kind kind) {
    if constexpr (std::is_signed_v<decltype(length)>)
      if (length < 0) fail("a length of {}", length);
    push(add(kind, take(static_cast<uint64_t>(length))));
  };
  switch (opcode) {
    case 0x80: {  // PROTO
      const int version = number<uint8_t>();
      if (version > 5) fail("protocol {}, expected at most 5", version);
      return true;
    }
    case 0x95: number<uint64_t>(); return true;  // FRAME
    case '.': root_ = pop(); return false;

    case 'N': push(kNone); return true;
    case 0x88: push(add_integer(1, Kind::boolean)); return true;
    case 0x89: push(add_integer(0, Kind::boolean)); return true;
    case 'J': push(add_integer(number<int32_t>())); return true;
    case 'K': push(add_integer(number<uint8_t>())); return true;
    case 'M': push(add_integer(number<uint16_t>())); return true;
    case 0x8A: push(add_long(take(number<uint8_t>()))); return true;
    case 0x8B: {
      const auto length = number<int32_t>();
      if (length < 0) fail("a length of {}", length);
      push(add_long(take(static_cast<uint64_t>(length))));
      return true;
    }
    case 'I': {
      const std::string_view text = line();
      if (text == "00" || text == "01")
        push(add_integer(text[1] - '0', Kind::boolean));
      else
        push(add_decimal(text));
      return true;
    }
    case 'L': push(add_decimal(line())); return true;
    case 'G':
    case 'F': {
      double value = 0;
      if (opcode == 'G') {  // the only big-endian number
        value = std::bit_cast<double>(__builtin_bswap64(number<uint64_t>()));
      } else {
        const std::string_view text = line();
        const char* const end = text.data() + text.size();
        if (std::from_chars(text.data(), end, value).ptr != end) fail("not a number");
      }
      const Id id = add(Kind::real);
      nodes_[id].real = value;
      push(id);
      return true;
    }

    case 'X': counted(number<uint32_t>(), Kind::text); return true;
    case 0x8C: counted(number<uint8_t>(), Kind::text); return true;
    case 0x8D: counted(number<uint64_t>(), Kind::text); return true;
    case 'U': counted(number<uint8_t>(), Kind::text); return true;
    case 'T': counted(number<int32_t>(), Kind::text); return true;
    case 'B': counted(number<uint32_t>(), Kind::bytes); return true;
    case 'C': counted(number<uint8_t>(), Kind::bytes); return true;
    case 0x8E: counted(number<uint64_t>(), Kind::bytes); return true;
    case 0x96: counted(number<uint64_t>(), Kind::bytes); return true;
    case 'S': {
      const std::string_view text = line();
      if (text.size() < 2 || text.front() != text.back()) fail("a text without quotes");
      push(add(Kind::text, keep(unescaped(text.substr(1, text.size() - 2), false))));
      return true;
    }
    case 'V': push(add(Kind::text, keep(unescaped(line(), true)))); return true;

    case '}': push(add(Kind::dict)); return true;
    case ']': push(add(Kind::list)); return true;
    case ')': push(add(Kind::tuple)); return true;
    case 0x8F: push(add(Kind::set)); return true;
    case '(':
      if (marks_.size() >= kMostMarks) fail("more than {} marks", kMostMarks);
      marks_.push_back(stack_.size());
      return true;
    case 't': push(add_items(Kind::tuple, pop_to_mark())); return true;
    case 'l': push(add_items(Kind::list, pop_to_mark())); return true;
    case 0x91: push(add_items(Kind::set, pop_to_mark())); return true;
    case 'd': {
      const std::vector<Id> pairs = pop_to_mark();
      const Id dict = add(Kind::dict);
      set_items(dict, pairs);
      push(dict);
      return true;
    }
    case 0x85: tuple_of(1); return true;
    case 0x86: tuple_of(2); return true;
    case 0x87: tuple_of(3); return true;
    case 'a': append(std::array{pop()}); return true;
    case 'e': append(pop_to_mark()); return true;
    case 's': {
      const Id value = pop(), key = pop();
      set_items(top(), std::array{key, value});
      return true;
    }
    case 'u': {
      const std::vector<Id> pairs = pop_to_mark();
      set_items(top(), pairs);
      return true;
    }
    case 0x90: {
      const std::vector<Id> values = pop_to_mark();
      extend(top(), Kind::set, values, "adds to what is no set");
      return true;
    }

    case '0':
      if (!marks_.empty() && marks_.back() == stack_.size())
        marks_.pop_back();
      else
        pop();
      return true;
    case '1': pop_to_mark(); return true;
    case '2': push(top()); return true;
    case 'q': put(number<uint8_t>()); return true;
    case 'r': put(number<uint32_t>()); return true;
    case 'h': get(number<uint8_t>()); return true;
    case 'j': get(number<uint32_t>()); return true;
    case 'p':
    case 'g': {
      const Id index = add_decimal(line());
      const auto place = static_cast<uint64_t>(integer(index));
      opcode == 'p' ? put(place) : get(place);
      return true;
    }
    case 0x94: put(memo_.size()); return true;

    case 'c': {
      const std::string_view module = line();
      push(add_global(module, line()));
      return true;
    }
    case 0x93: {
      const Id name = pop(), module = pop();
      if (!is(name, Kind::text) || !is(module, Kind::text)) fail("a name that is no text");
      push(add_global(text(module), text(name)));
      return true;
    }
    case 'R':
    case 0x81: {
      const Id arguments = pop(), callable = pop();
      push(call(callable, arguments));
      return true;
    }
    case 0x92: {
      pop();  // arguments by name: of types that are passed over
      const Id arguments = pop(), callable = pop();
      push(call(callable, arguments));
      return true;
    }
    case 'b': {
      const Id state = pop();
      build(top(), state);
      return true;
    }
    case 'Q': push(add_items(Kind::persistent, {pop()})); return true;
    default: fail("not supported");
  }
}

}  // namespace facet
