// What a program says while it works, all on stderr: results alone go to stdout.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <string>

namespace facet {

void log_line(const std::string& line);  // clears a progress bar that is in the way
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(fmt::format(format, std::forward<Args>(args)...));
}

std::string format_seconds(double seconds);  // "7 s", "3:05 min", "1:02:03 h"

// Seconds since construction, by a clock that never jumps.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

struct ProgressOptions {
  int64_t every_steps = 50;   // without a terminal: a line at most this often ...
  double every_seconds = 10;  // ... and at most this often
};

// A bar on a terminal, now and then a full line elsewhere.
class Progress {
 public:
  Progress(std::string title, int64_t first_step, int64_t total_steps,
           ProgressOptions options = {});
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  struct Status {
    int64_t step = 0;  // steps done
    double loss = 0.0, lr = 0.0;
    int64_t images = 0;         // in this step
    double step_seconds = 0.0;  // of which ...
    double wait_seconds = 0.0;  // ... waiting for data
  };
  void update(const Status& status);
  double images_per_second() const { return seconds_ > 0 ? images_ / seconds_ : 0.0; }
  double wait_share() const { return seconds_ > 0 ? wait_ / seconds_ : 0.0; }

 private:
  std::string line(const Status& status, bool bar) const;

  std::string title_;
  int64_t total_steps_;
  ProgressOptions options_;
  Stopwatch clock_;
  double last_shown_ = -1e9;
  int64_t last_step_, measured_steps_ = 0;
  double seconds_ = 0.0, wait_ = 0.0, images_ = 0.0;  // fading sums over recent steps
};

}  // namespace facet
