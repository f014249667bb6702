// Counts, times and costs of the backend's methods: a backend that stands before another one.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tensor/backend.h"

namespace facet {

class ProfilingBackend final : public Backend {
 public:
  struct Row {
    std::string name;  // of the method, with by_shape followed by the shapes of its tensors
    int64_t calls = 0;
    double seconds = 0.0;
    double bytes = 0.0;  // of every tensor argument, once: no kernel can move less
    double flops = 0.0;  // of products and convolutions, a multiply-add as two
  };

  // One call, with the shapes of its tensors.
  struct Event {
    const char* method;
    std::string shapes;
    std::chrono::steady_clock::time_point start;
    double seconds;
    std::thread::id thread;
  };

  explicit ProfilingBackend(Backend& inner, bool by_shape = false, bool keep_events = false)
      : inner_(inner), by_shape_(by_shape || keep_events), keep_events_(keep_events) {}

  // Slowest first.
  std::vector<Row> rows() const;
  // Every call in the order of their ends, where they are kept.
  std::vector<Event> events() const;
  void reset();
  // Whether calls are recorded, not only passed on; they are from the start.
  void record(bool on) { recording_ = on; }
  // The methods of backend.def that were never called since the last reset.
  std::vector<std::string> unreached() const;
  static const std::vector<std::string>& methods();

#define BACKEND_METHOD(name, parameters, arguments) void name parameters override;
#include "tensor/backend.def"
#undef BACKEND_METHOD

 private:
  // `cost`: a row without times.
  template <typename Call>
  void run(const char* method, const Row& cost, const Call& call);

  Backend& inner_;
  bool by_shape_, keep_events_;
  std::atomic<bool> recording_{true};
  std::vector<Event> events_;
  mutable std::mutex mutex_;
  std::map<std::string, std::map<std::string, Row>> counts_;  // by method, then by shapes
};

// Profiles what the thread that makes it and all others ask of a device's backend during its life:
//   Profile profile;
//   train_step();
//   for (const auto& row : profile.rows()) ...
// With work that runs behind the caller's back (CUDA streams) the seconds are those of the launch.
// Not to be made or destroyed while other threads compute; nested ones must end in reverse order.
class Profile {
 public:
  explicit Profile(DeviceType type = DeviceType::cpu, bool by_shape = false,
                   bool keep_events = false);
  ~Profile();
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  std::vector<ProfilingBackend::Row> rows() const { return backend_->rows(); }
  std::vector<ProfilingBackend::Event> events() const { return backend_->events(); }
  std::vector<std::string> unreached() const { return backend_->unreached(); }
  void reset() { backend_->reset(); }
  void record(bool on) { backend_->record(on); }

 private:
  DeviceType type_;
  Backend* before_;
  std::unique_ptr<ProfilingBackend> backend_;
};

}  // namespace facet
