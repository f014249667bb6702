// Errors are exceptions whose message carries the operation and what was expected and got:
//   [conv2d] expected C=64, got x of (8, 32, 32, 3)
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace facet {

// Process exit codes of every program in apps/.
enum class ExitCode : int {
  ok = 0,
  failure = 1,
  usage = 2,
  bad_file = 3,
  verification = 4,
  out_of_memory = 5,
  non_finite = 6,
  interrupted = 75,  // stopped on request; run the same command again to continue
};

// A mistake in what the caller asked for (shapes, options, files). One line, no newline at the end.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, ExitCode code = ExitCode::failure)
      : std::runtime_error(message), code_(code) {}
  // Error("expected {}, got {}", want, got)
  template <typename Arg, typename... Args>
  explicit Error(fmt::format_string<Arg, Args...> format, Arg&& arg, Args&&... args)
      : Error(fmt::format(format, std::forward<Arg>(arg), std::forward<Args>(args)...)) {}
  ExitCode exit_code() const { return code_; }

 private:
  ExitCode code_;
};

template <ExitCode kCode>
class ErrorWithCode : public Error {
 public:
  explicit ErrorWithCode(const std::string& message) : Error(message, kCode) {}
  template <typename Arg, typename... Args>
  explicit ErrorWithCode(fmt::format_string<Arg, Args...> format, Arg&& arg, Args&&... args)
      : Error(fmt::format(format, std::forward<Arg>(arg), std::forward<Args>(args)...), kCode) {}
};

class UsageError : public ErrorWithCode<ExitCode::usage> {
  using ErrorWithCode::ErrorWithCode;
};

// A file or folder that is missing, truncated, swapped or otherwise not what was expected.
class FileError : public ErrorWithCode<ExitCode::bad_file> {
  using ErrorWithCode::ErrorWithCode;
};

// A NaN or infinity where training must not go on.
class NonFiniteError : public ErrorWithCode<ExitCode::non_finite> {
  using ErrorWithCode::ErrorWithCode;
};

// A fault of a device (a failed kernel, a lost GPU): nothing more can be done on it, the process
// has to end.
class DeviceError : public ErrorWithCode<ExitCode::failure> {
  using ErrorWithCode::ErrorWithCode;
};

// A mistake of facet itself.
class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

namespace detail {
template <typename... Args>
[[noreturn]] void fail(const char* op, fmt::format_string<Args...> format, Args&&... args) {
  throw Error("[{}] {}", op, fmt::format(format, std::forward<Args>(args)...));
}
[[noreturn]] inline void internal_fail(const char* expression, const char* file, int line) {
  throw InternalError(fmt::format("internal error: {} at {}:{}", expression, file, line));
}
}  // namespace detail

}  // namespace facet

// User mistakes: FACET_CHECK(a.dim(1) == b.dim(0), "matmul", "expected K={}, got {}", k, b.dim(0)).
#define FACET_CHECK(condition, op, ...)                         \
  do {                                                          \
    if (!(condition)) ::facet::detail::fail((op), __VA_ARGS__); \
  } while (false)

// Our own mistakes.
#define FACET_INTERNAL_CHECK(condition)                                               \
  do {                                                                                \
    if (!(condition)) ::facet::detail::internal_fail(#condition, __FILE__, __LINE__); \
  } while (false)
