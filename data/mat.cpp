#include "data/mat.h"

#include <matio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <functional>

#include "tensor/check.h"
#include "tensor/file.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

constexpr size_t kHeader = 128;
constexpr size_t kMaxFile = size_t{64} << 20, kMaxElements = size_t{1} << 24;

void check_header(std::string_view head, size_t size, const std::string& name) {
  if (head.starts_with("MATLAB 7.3") || head.starts_with("\x89HDF"))
    throw FileError(fmt::format(
        "{}: a MATLAB 7.3 file; expected version 5 (save it with -v7, or scipy.io.savemat)", name));
  if (size < kHeader || head.size() < kHeader ||
      (head.substr(126, 2) != "IM" && head.substr(126, 2) != "MI"))
    throw FileError(
        fmt::format("{}: expected a MATLAB file of version 5, got {} bytes of "
                    "something else",
                    name, size));
  if (size > kMaxFile)
    throw FileError(fmt::format("{}: {} bytes, at most {} are read", name, size, kMaxFile));
}

size_t elements(const matvar_t& variable) {
  size_t count = 1;
  for (int d = 0; d < variable.rank; ++d)
    if (__builtin_mul_overflow(count, variable.dims[d], &count)) return SIZE_MAX;
  return count;
}

void append_utf8(std::string& text, uint32_t c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += static_cast<char>(0xc0 | c >> 6);
    text += static_cast<char>(0x80 | (c & 63));
  } else {
    text += static_cast<char>(0xe0 | (c >> 12 & 15));
    text += static_cast<char>(0x80 | (c >> 6 & 63));
    text += static_cast<char>(0x80 | (c & 63));
  }
}

}  // namespace

struct MatFile::Impl {
  std::string name;
  int memory = -1;
  mat_t* file = nullptr;

  ~Impl() {
    if (file) Mat_Close(file);
    if (memory >= 0) ::close(memory);
  }
  void open(const std::string& path) {
    // Silent, and no abort(): what fails throws here.
    static const int silent = Mat_LogInitFunc("facet", [](int, char*) {});
    static_cast<void>(silent);
    file = Mat_Open(path.c_str(), MAT_ACC_RDONLY);
    if (!file) throw FileError(fmt::format("{}: damaged MATLAB file", name));
  }
  [[noreturn]] void fail(const std::string& variable, const std::string& what) const {
    throw FileError(fmt::format("{}: variable '{}': {}", name, variable, what));
  }

  // Calls `use` on every value of the variable or of one field of its structs.
  void each(const std::string& variable, const std::string& field,
            const std::function<void(const matvar_t&)>& use) const {
    const std::unique_ptr<matvar_t, void (*)(matvar_t*)> found(Mat_VarRead(file, variable.c_str()),
                                                               Mat_VarFree);
    if (!found) fail(variable, "expected it in the file, found none");
    const size_t count = elements(*found);
    if (count > kMaxElements) fail(variable, fmt::format("{} values are too many", count));
    if (field.empty() && found->class_type != MAT_C_CELL) return use(*found);
    for (size_t i = 0; i < count; ++i) {
      const matvar_t* value = nullptr;
      if (field.empty())
        value = Mat_VarGetCell(found.get(), static_cast<int>(i));
      else if (found->class_type == MAT_C_STRUCT)
        value = Mat_VarGetStructFieldByName(found.get(), field.c_str(), i);
      if (!value)
        fail(variable, field.empty() ? std::string("an empty cell")
                                     : fmt::format("expected structs with a field '{}'", field));
      if (elements(*value) > kMaxElements) fail(variable, "too many values");
      use(*value);
    }
  }

  double number(const std::string& variable, const matvar_t& value, size_t i) const {
    // The class says what it is, the data type how it is stored; matio widens to the class.
    const auto at = [&](auto type) {
      return static_cast<double>(static_cast<const decltype(type)*>(value.data)[i]);
    };
    if (!value.data || value.isComplex ||
        (i + 1) * Mat_SizeOfClass(value.class_type) > value.nbytes)
      fail(variable, "expected numbers");
    switch (value.class_type) {
      case MAT_C_DOUBLE: return at(double{});
      case MAT_C_SINGLE: return at(float{});
      case MAT_C_INT8: return at(int8_t{});
      case MAT_C_UINT8: return at(uint8_t{});
      case MAT_C_INT16: return at(int16_t{});
      case MAT_C_UINT16: return at(uint16_t{});
      case MAT_C_INT32: return at(int32_t{});
      case MAT_C_UINT32: return at(uint32_t{});
      case MAT_C_INT64: return at(int64_t{});
      case MAT_C_UINT64: return at(uint64_t{});
      default: fail(variable, "expected numbers");
    }
  }

  std::string text(const std::string& variable, const matvar_t& value) const {
    // MATLAB wraps texts in cells of one.
    if (value.class_type == MAT_C_CELL && elements(value) == 1) {
      const matvar_t* inner = Mat_VarGetCell(const_cast<matvar_t*>(&value), 0);
      if (inner && inner->class_type == MAT_C_CHAR) return text(variable, *inner);
    }
    const size_t count = elements(value);
    const bool wide = value.data_type == MAT_T_UINT16 || value.data_type == MAT_T_UTF16;
    if (value.class_type != MAT_C_CHAR) fail(variable, "expected text");
    if (!value.data || count * (wide ? 2 : 1) > value.nbytes) {
      if (count == 0) return "";
      fail(variable, "expected text");
    }
    if (!wide) return {static_cast<const char*>(value.data), count};
    std::string result;
    for (size_t i = 0; i < count; ++i)
      append_utf8(result, static_cast<const uint16_t*>(value.data)[i]);
    return result;
  }
};

MatFile::MatFile(const fs::path& file) : impl_(std::make_unique<Impl>()) {
  impl_->name = file.string();
  const InputFile input(file);
  std::string head(std::min(input.size(), kHeader), '\0');
  input.read(0, std::as_writable_bytes(std::span(head)));
  check_header(head, input.size(), impl_->name);
  impl_->open(file.string());
}

MatFile::MatFile(std::string_view bytes, std::string name) : impl_(std::make_unique<Impl>()) {
  impl_->name = std::move(name);
  check_header(bytes.substr(0, kHeader), bytes.size(), impl_->name);
  // libmatio reads files alone: one in memory.
  impl_->memory = ::memfd_create("facet-mat", MFD_CLOEXEC);
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(impl_->memory, bytes.data() + done, bytes.size() - done);
    if (n <= 0) throw FileError(fmt::format("{}: no memory to unpack it", impl_->name));
    done += static_cast<size_t>(n);
  }
  impl_->open(fmt::format("/proc/self/fd/{}", impl_->memory));
}

MatFile::~MatFile() = default;

std::vector<int64_t> MatFile::integers(const std::string& variable,
                                       const std::string& field) const {
  std::vector<int64_t> values;
  impl_->each(variable, field, [&](const matvar_t& value) {
    const size_t count = elements(value);
    if (!field.empty() && count != 1) impl_->fail(variable, "expected one number a field");
    for (size_t i = 0; i < count; ++i) {
      const double number = impl_->number(variable, value, i);
      if (!(std::abs(number) < 9e15) || number != std::floor(number))
        impl_->fail(variable, fmt::format("expected whole numbers, got {}", number));
      values.push_back(static_cast<int64_t>(number));
    }
  });
  return values;
}

std::vector<std::string> MatFile::strings(const std::string& variable,
                                          const std::string& field) const {
  std::vector<std::string> values;
  impl_->each(variable, field,
              [&](const matvar_t& value) { values.push_back(impl_->text(variable, value)); });
  return values;
}

std::vector<std::string> MatFile::variables() const {
  std::vector<std::string> names;
  size_t count = 0;
  char* const* list = Mat_GetDir(impl_->file, &count);
  for (size_t i = 0; list && i < count; ++i)
    if (list[i]) names.emplace_back(list[i]);
  return names;
}

}  // namespace facet
