#include "data/verify.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>

#include "tensor/check.h"

namespace facet {
namespace {

// What a child writes of a sample: three texts, each with a NUL behind it.
[[noreturn]] void run_child(const Dataset& dataset, int64_t first, int64_t last, int to) noexcept {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1}) std::signal(signal, SIG_DFL);
  for (int64_t i = first; i < last; ++i) {
    const SampleCheck check = check_sample(dataset, i);
    std::string bytes;
    for (const std::string& text : {check.kind, check.error, check.warnings})
      bytes += text.substr(0, text.find('\0')) + '\0';
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t n = ::write(to, bytes.data() + done, bytes.size() - done);
      if (n < 0 && errno != EINTR) ::_exit(1);
      if (n > 0) done += static_cast<size_t>(n);
    }
  }
  ::_exit(0);
}

struct Child {
  pid_t id = -1;
  int from = -1;
};

Child start_child(const Dataset& dataset, int64_t first, int64_t last) {
  // Not two at a time: a child that inherited the writing end of another's pipe would keep it open.
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  int ends[2] = {-1, -1};
  const bool piped = ::pipe2(ends, O_CLOEXEC) == 0;
  const pid_t id = piped ? ::fork() : -1;
  if (id == 0) run_child(dataset, first, last, ends[1]);
  const int why = errno;
  if (piped) ::close(ends[1]);
  if (id > 0) return {id, ends[0]};
  if (piped) ::close(ends[0]);
  throw Error("no process for a decoder: {}", std::strerror(why));
}

}  // namespace

SampleCheck check_sample(const Dataset& dataset, int64_t index) {
  SampleCheck check;
  try {
    const Sample sample = dataset.sample(index);
    if (const EncodedPicture* file = sample.encoded()) {
      check.kind = name(file->kind());
      file->decode({0, 0, file->height(), file->width()}, &check.warnings);
    } else {
      sample.decode();
    }
  } catch (const Error& error) {
    check.error = error.what();
  }
  return check;
}

void check_in_children(const Dataset& dataset, int64_t first, int64_t last,
                       const std::function<void(int64_t, const SampleCheck&)>& report,
                       const std::function<bool()>& stop) {
  while (first < last && !stop()) {
    const Child child = start_child(dataset, first, last);
    std::string written;
    char part[1 << 12];
    for (ssize_t n; (n = ::read(child.from, part, sizeof part)) != 0;)
      if (n > 0)
        written.append(part, static_cast<size_t>(n));
      else if (errno != EINTR)
        break;
    ::close(child.from);
    int status = 0;
    while (::waitpid(child.id, &status, 0) < 0 && errno == EINTR) {
    }
    SampleCheck check;
    for (size_t at = 0; first < last; ++first) {
      bool whole = true;
      for (std::string* text : {&check.kind, &check.error, &check.warnings}) {
        const size_t end = written.find('\0', at);
        whole = whole && end != std::string::npos;
        if (!whole) break;
        *text = written.substr(at, end - at);
        at = end + 1;
      }
      if (!whole) break;
      report(first, check);
    }
    if (first == last || stop()) return;
    check = {};
    check.error =
        fmt::format("{}: the decoder ended its process ({})", dataset.where(first),
                    WIFSIGNALED(status) ? ::strsignal(WTERMSIG(status))
                                        : fmt::format("exit code {}", WEXITSTATUS(status)).c_str());
    report(first++, check);
  }
}

}  // namespace facet
