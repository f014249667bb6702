#include "apps/log.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace facet {
namespace {

bool bar_is_shown = false;

size_t terminal_width() {
  struct winsize size;
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

bool stderr_is_terminal() {
  static const bool terminal = [] {
    const char* term = std::getenv("TERM");
    return ::isatty(STDERR_FILENO) && !(term && std::strcmp(term, "dumb") == 0);
  }();
  return terminal;
}

}  // namespace

void log_line(const std::string& line) {
  if (bar_is_shown) fmt::print(stderr, "\r\x1b[K");
  bar_is_shown = false;
  fmt::print(stderr, "{}\n", line);
}

std::string format_seconds(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02} min", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02} h", s / 3600, s / 60 % 60, s % 60);
}

Progress::Progress(std::string title, int64_t first_step, int64_t total_steps,
                   ProgressOptions options)
    : title_(std::move(title)),
      total_steps_(total_steps),
      options_(options),
      last_step_(first_step) {}

Progress::~Progress() {
  if (bar_is_shown) fmt::print(stderr, "\r\x1b[K");
  bar_is_shown = false;
}

void Progress::update(const Status& status) {
  // The first steps build kernels and fill caches: they say nothing about the rest.
  if (++measured_steps_ > 2) {
    constexpr double kFade = 0.98;
    seconds_ = kFade * seconds_ + status.step_seconds;
    wait_ = kFade * wait_ + status.wait_seconds;
    images_ = kFade * images_ + static_cast<double>(status.images);
  }
  const double now = clock_.seconds();
  const bool last = status.step == total_steps_;
  if (stderr_is_terminal()) {
    if (!last && now - last_shown_ < 0.1) return;
    std::string text = line(status, true);
    if (text.size() >= terminal_width()) text.resize(terminal_width() - 1);
    fmt::print(stderr, "\r{}\x1b[K", text);
    std::fflush(stderr);
    bar_is_shown = true;
  } else {
    const bool first = last_shown_ < 0;
    if (!last && !first &&
        (status.step - last_step_ < options_.every_steps ||
         now - last_shown_ < options_.every_seconds))
      return;
    log_line(line(status, false));
  }
  last_shown_ = now;
  last_step_ = status.step;
}

std::string Progress::line(const Status& status, bool bar) const {
  std::string text = title_ + " ";
  if (bar) {
    constexpr int64_t kWidth = 20;
    const int64_t full = status.step * kWidth / std::max<int64_t>(total_steps_, 1);
    text += fmt::format("[{:=<{}}{:<{}}] ", "", full, "", kWidth - full);
  }
  text += fmt::format("step {}/{} loss {:.4f} lr {:.3g}", status.step, total_steps_, status.loss,
                      status.lr);
  if (seconds_ > 0) {
    text += fmt::format(" {:.0f} img/s wait {:.0f}%", images_per_second(), 100 * wait_share());
    const double left = static_cast<double>((total_steps_ - status.step) * status.images);
    const double eta = left / std::max(images_per_second(), 1e-9);
    text += " ETA " + format_seconds(eta);
  }
  return text;
}

}  // namespace facet
