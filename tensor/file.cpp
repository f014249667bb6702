#include "tensor/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "tensor/check.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

// write() moves at most about 2 GiB a call.
constexpr size_t kLargestTransfer = size_t{1} << 30;
constexpr const char* kTemporarySuffix = ".tmp";

FileFault& file_fault() {
  static FileFault fault;
  return fault;
}

// Whether a test lets the call fail, with errno set.
bool fails(FileCall call, const fs::path& path) {
  const int error = file_fault() ? file_fault()(call, path) : 0;
  if (error > 0) errno = error;
  return error > 0;
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// False with errno set when not all could be written.
bool write_fully(int fd, const fs::path& path, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    size_t size = std::min(bytes.size(), kLargestTransfer);
    const int fault = file_fault() ? file_fault()(FileCall::write, path) : 0;
    if (fault == kShortWrite) size = (size + 1) / 2;
    if (fault > 0) errno = fault;
    const ssize_t n = fault > 0 ? -1 : ::write(fd, bytes.data(), size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return true;
}

[[noreturn]] void fail_open(const fs::path& path) {
  const int error = errno;
  throw FileError("cannot read {}: {}", path.string(), std::strerror(error));
}

}  // namespace

AtomicFile::AtomicFile(fs::path target, size_t expected_bytes) : target_(std::move(target)) {
  static std::atomic<int> counter{0};
  temporary_ = folder_of(target_) / fmt::format(".{}.{}.{}{}", target_.filename().string(),
                                                ::getpid(), counter++, kTemporarySuffix);
  // The mode of the file that is replaced; 0666 less the umask for a new one.
  struct stat existing;
  const bool replaces = ::stat(target_.c_str(), &existing) == 0;
  if (!fails(FileCall::create, temporary_))
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd_ < 0) fail("create");
  if (replaces && ::fchmod(fd_, existing.st_mode & 07777) != 0) fail("set the mode of");
  // Not every file system can reserve; only a full disk is an error here.
  if (expected_bytes > 0) {
    const int error = fails(FileCall::reserve, temporary_)
                          ? errno
                          : ::posix_fallocate(fd_, 0, static_cast<off_t>(expected_bytes));
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
      errno = error;
      fail("reserve space for");
    }
  }
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::fail(const char* action) {
  const int error = errno;
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
  throw FileError("cannot {} {}: {}", action, target_.string(), std::strerror(error));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  FACET_INTERNAL_CHECK(fd_ >= 0);
  if (!write_fully(fd_, temporary_, bytes)) fail("write");
}

void AtomicFile::commit() {
  FACET_INTERNAL_CHECK(fd_ >= 0);
  // A failed fsync is final: the pages are gone, so the same descriptor is never tried again.
  const off_t length = ::lseek(fd_, 0, SEEK_CUR);
  if (length < 0 || ::ftruncate(fd_, length) != 0) fail("write");
  if (fails(FileCall::sync, temporary_) || ::fsync(fd_) != 0) fail("sync");
  if (fails(FileCall::close, temporary_) || ::close(std::exchange(fd_, -1)) != 0) fail("close");
  if (fails(FileCall::rename, target_) || ::rename(temporary_.c_str(), target_.c_str()) != 0)
    fail("replace");
  temporary_.clear();
  // The rename itself lasts only once the folder is on the disk: before, nothing that the new file
  // replaces may be removed. Some file systems cannot sync folders (EINVAL).
  fd_ = ::open(folder_of(target_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd_ < 0) return;
  if (fails(FileCall::sync, folder_of(target_)) || (::fsync(fd_) != 0 && errno != EINVAL))
    fail("sync the folder of");
  ::close(std::exchange(fd_, -1));
}

bool remove_file(const fs::path& path) {
  return !fails(FileCall::remove, path) && ::unlink(path.c_str()) == 0;
}

void write_file(const fs::path& path, std::string_view content) {
  AtomicFile file(path, content.size());
  file.write(content);
  file.commit();
}

std::string read_file(const fs::path& path) {
  const InputFile file(path);
  std::string content(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(content)));
  return content;
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error || !fs::is_directory(path))
    throw FileError("cannot create folder {}: {}", path.string(),
                    error ? error.message() : "a file of that name exists");
}

void remove_stale_temporaries(const fs::path& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(".") || !name.ends_with(kTemporarySuffix)) continue;
    // ".<target>.<pid>.<counter>.tmp"
    const std::string stem = name.substr(0, name.size() - std::strlen(kTemporarySuffix));
    const size_t last = stem.rfind('.'), before = stem.rfind('.', last - 1);
    if (last == std::string::npos || before == std::string::npos) continue;
    const long pid = std::strtol(stem.c_str() + before + 1, nullptr, 10);
    const bool runs = pid > 0 && (::kill(static_cast<pid_t>(pid), 0) == 0 || errno == EPERM);
    if (pid > 0 && !runs) fs::remove(entry.path(), ignored);
  }
}

InputFile::InputFile(fs::path path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) fail_open(path_);
  struct stat info;
  if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd_);
    throw FileError("cannot read {}: not a regular file", path_.string());
  }
  size_ = static_cast<size_t>(info.st_size);
}

InputFile::~InputFile() {
  ::close(fd_);
}

void InputFile::read(size_t offset, std::span<std::byte> into) const {
  while (!into.empty()) {
    const ssize_t n = ::pread(fd_, into.data(), std::min(into.size(), kLargestTransfer),
                              static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_open(path_);
    if (n == 0)
      throw FileError("{}: ends at byte {}, expected {} more", path_.string(), offset, into.size());
    into = into.subspan(static_cast<size_t>(n));
    offset += static_cast<size_t>(n);
  }
}

AppendLog::AppendLog(const fs::path& path) : path_(path) {
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) throw FileError("cannot write {}: {}", path.string(), std::strerror(errno));
}

AppendLog::~AppendLog() {
  if (fd_ >= 0) ::close(fd_);
}

void AppendLog::append(std::string_view record) {
  if (fd_ < 0 || write_fully(fd_, path_, std::as_bytes(std::span(record)))) return;
  fmt::print(stderr, "warning: {} is not written any more: {}\n", path_.string(),
             std::strerror(errno));
  ::close(std::exchange(fd_, -1));
}

LineLog::LineLog(const fs::path& path) : AppendLog(path) {
  char last = '\n';
  const off_t size = ::lseek(fd_, 0, SEEK_END);
  if (size > 0 && ::pread(fd_, &last, 1, size - 1) == 1 && last != '\n') append("\n");
}

void set_file_fault(FileFault fault) {
  file_fault() = std::move(fault);
}

}  // namespace facet
