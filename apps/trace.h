// What some training steps spend their time on, call by call, for chrome://tracing and
// ui.perfetto.dev.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "tensor/profile.h"

namespace facet {

class Trace {
 public:
  // Steps first, first + 1, ... (`count` of them, 1-based from the start of the process) of what is
  // asked of a device's backend. Each call is waited for, so that its time is its own. To be made
  // before other threads compute, and to outlive them.
  Trace(std::filesystem::path file, int64_t first, int64_t count, DeviceType type);
  ~Trace();  // of a run that ended meanwhile: writes what there is, best effort

  // Before a step begins; writes the file once the last one is over.
  void begin_step(int64_t number);
  bool active() const { return active_; }

 private:
  friend class TraceSpan;
  using Clock = std::chrono::steady_clock;
  struct Span {
    std::string name;
    Clock::time_point start, end;
  };
  void write();

  std::filesystem::path file_;
  int64_t first_, count_;
  Profile profile_;
  bool active_ = false;
  std::vector<Span> spans_;
};

// A stretch of the training loop: its calls nest inside. Nothing where there is no trace.
class TraceSpan {
 public:
  TraceSpan(Trace* trace, const char* name) : trace_(trace), name_(name) {}
  ~TraceSpan();
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  Trace* trace_;
  const char* name_;
  Trace::Clock::time_point start_ = Trace::Clock::now();
};

}  // namespace facet
