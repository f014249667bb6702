// Files that are either the old one or the new one, never half of each: written beside their
// target, synced, renamed over it. After a crash, a full disk or a signal the old file is intact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace facet {

// The new content of `target`, invisible until commit(). Dropped when destroyed without it.
// Every failure is a FileError that names the file and the reason.
class AtomicFile {
 public:
  // `expected_bytes`: space to reserve, so that a full disk shows before anything is written.
  explicit AtomicFile(std::filesystem::path target, size_t expected_bytes = 0);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void commit();

 private:
  [[noreturn]] void fail(const char* action);

  std::filesystem::path target_, temporary_;
  int fd_ = -1;
};

// False where it stays: rotation of files goes on without it.
bool remove_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, std::string_view content);  // atomically
std::string read_file(const std::filesystem::path& path);
// Creates the folder and those above it; an existing one is fine.
void make_folder(const std::filesystem::path& path);
// Removes what interrupted writes of processes that no longer run left in the folder.
void remove_stale_temporaries(const std::filesystem::path& folder);

// Reads at known places of one file.
class InputFile {
 public:
  explicit InputFile(std::filesystem::path path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  size_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }
  // Exactly into.size() bytes from `offset`.
  void read(size_t offset, std::span<std::byte> into) const;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  size_t size_ = 0;
};

// Appends records, one write() each, so that a crash costs at most the last. A write that fails
// (disk full) turns it off with one warning on stderr: logs never stop the work.
class AppendLog {
 public:
  explicit AppendLog(const std::filesystem::path& path);
  ~AppendLog();
  AppendLog(const AppendLog&) = delete;
  AppendLog& operator=(const AppendLog&) = delete;

  void append(std::string_view record);

 protected:
  std::filesystem::path path_;
  int fd_ = -1;
};

// ... whole lines. What a crash left of the last one is closed, so that the next stands alone.
class LineLog : public AppendLog {
 public:
  explicit LineLog(const std::filesystem::path& path);
  void write(const std::string& line) { append(line + "\n"); }
};

// For tests of what happens on a failing disk: asked before every system call of this file that
// changes something, with the file it is about (a folder that is synced; the new name in a rename).
// 0 lets it happen, an errno makes it fail; kShortWrite halves a write().
enum class FileCall : uint8_t { create, reserve, write, sync, close, rename, remove };
inline constexpr int kShortWrite = -1;
using FileFault = std::function<int(FileCall, const std::filesystem::path&)>;
void set_file_fault(FileFault fault);  // an empty one: none any more

}  // namespace facet
