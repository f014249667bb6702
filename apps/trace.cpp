#include "apps/trace.h"

#include <unistd.h>

#include <algorithm>
#include <map>

#include "apps/log.h"
#include "apps/machine.h"
#include "tensor/file.h"

namespace facet {

Trace::Trace(std::filesystem::path file, int64_t first, int64_t count, DeviceType type)
    : file_(std::move(file)), first_(first), count_(count), profile_(type, true, true) {
  profile_.record(false);
  if (first < 1 || count < 1)
    throw UsageError("--trace-from and --trace-steps: expected at least 1, got {} and {}", first,
                     count);
  write_file(file_, "[]\n");  // what cannot be written is said before the work
}

Trace::~Trace() {
  try {
    write();
  } catch (const std::exception& e) {
    log_info("warning: {}", e.what());
  }
}

void Trace::begin_step(int64_t number) {
  if (number == first_) profile_.record(active_ = true);
  if (number == first_ + count_) write();
}

void Trace::write() {
  if (!active_) return;
  profile_.record(active_ = false);
  const std::vector<ProfilingBackend::Event> calls = profile_.events();
  Clock::time_point origin = Clock::time_point::max();
  for (const Span& span : spans_) origin = std::min(origin, span.start);
  for (const auto& call : calls) origin = std::min(origin, call.start);
  const auto microseconds = [](Clock::duration d) {
    return std::chrono::duration<double, std::micro>(d).count();
  };
  const int process = ::getpid();
  std::map<std::thread::id, int> tracks = {{std::this_thread::get_id(), 1}};
  Json events = Json::array();
  const auto add = [&](const std::string& name, const char* category, int track,
                       Clock::time_point start, double duration) -> Json& {
    events.push_back({{"name", name},
                      {"cat", category},
                      {"ph", "X"},
                      {"ts", microseconds(start - origin)},
                      {"dur", duration},
                      {"pid", process},
                      {"tid", track}});
    return events.back();
  };
  for (const Span& span : spans_)
    add(span.name, "loop", 1, span.start, microseconds(span.end - span.start));
  for (const auto& call : calls) {
    const auto next = static_cast<int>(tracks.size()) + 1;
    const int track = tracks.try_emplace(call.thread, next).first->second;
    add(call.method, "operation", track, call.start, call.seconds * 1e6)["args"] = {
        {"shapes", call.shapes.empty() ? call.shapes : call.shapes.substr(1)}};
  }
  const auto label = [&](const char* what, int track, const std::string& name) {
    events.push_back({{"name", what},
                      {"ph", "M"},
                      {"pid", process},
                      {"tid", track},
                      {"args", {{"name", name}}}});
  };
  label("process_name", 1, "facet");
  for (const auto& [thread, track] : tracks)
    label("thread_name", track, track == 1 ? "training" : fmt::format("worker {}", track - 1));
  const Json trace = {{"displayTimeUnit", "ms"},
                      {"traceEvents", std::move(events)},
                      {"metadata", machine_description()}};
  write_file(file_, trace.dump() + "\n");
  log_info("{}: {} calls of {} steps; open it at ui.perfetto.dev", file_.string(), calls.size(),
           std::ranges::count(spans_, "step", &Span::name));
}

TraceSpan::~TraceSpan() {
  if (trace_ && trace_->active()) trace_->spans_.push_back({name_, start_, Trace::Clock::now()});
}

}  // namespace facet
