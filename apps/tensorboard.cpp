#include "apps/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <chrono>

namespace facet {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie");

template <typename T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string varint(uint64_t value) {
  std::string text;
  for (; value >= 0x80; value >>= 7) text += static_cast<char>(value | 0x80);
  return text += static_cast<char>(value);
}

// Protobuf fields: key = number << 3 | wire type.
std::string int_field(int number, int64_t value) {
  return varint(static_cast<uint64_t>(number) << 3) + varint(static_cast<uint64_t>(value));
}
std::string bytes_field(int number, std::string_view value) {
  return varint(static_cast<uint64_t>(number) << 3 | 2) + varint(value.size()) + std::string(value);
}
template <typename T>
std::string fixed_field(int number, T value) {
  return varint(static_cast<uint64_t>(number) << 3 | (sizeof value == 8 ? 1 : 5)) + bytes_of(value);
}

// Event { wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7 }
std::string event(double wall_time, int64_t step, const std::string& what) {
  return fixed_field(1, wall_time) + (step != 0 ? int_field(2, step) : std::string()) + what;
}

double now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0u);
  }
  return ~crc;
}

std::string tf_record(std::string_view data) {
  const auto masked = [](std::string_view bytes) {
    return bytes_of(static_cast<uint32_t>(std::rotr(crc32c(bytes), 15) + 0xA282EAD8u));
  };
  const std::string length = bytes_of(static_cast<uint64_t>(data.size()));
  return length + masked(length) + std::string(data) + masked(data);
}

std::string version_event(double wall_time) {
  return event(wall_time, 0, bytes_field(3, "brain.Event:2"));
}

// Summary { value = 1 { tag = 1, simple_value = 2 } }
std::string scalar_event(double wall_time, int64_t step, const std::string& tag, double value) {
  const std::string entry = bytes_field(1, tag) + fixed_field(2, static_cast<float>(value));
  return event(wall_time, step, bytes_field(5, bytes_field(1, entry)));
}

// Summary { value = 1 { tag = 1, tensor = 8, metadata = 9 } }: a tensor of one string of the plugin
// "text". TensorProto { dtype = 1 (7: string), tensor_shape = 2 { dim = 2 { size = 1 } },
// string_val = 8 }, SummaryMetadata { plugin_data = 1 { plugin_name = 1 } }.
std::string text_event(double wall_time, int64_t step, const std::string& tag,
                       const std::string& markdown) {
  const std::string shape = bytes_field(2, int_field(1, 1));
  const std::string tensor = int_field(1, 7) + bytes_field(2, shape) + bytes_field(8, markdown);
  const std::string metadata = bytes_field(1, bytes_field(1, "text"));
  const std::string entry =
      bytes_field(1, tag + "/text_summary") + bytes_field(8, tensor) + bytes_field(9, metadata);
  return event(wall_time, step, bytes_field(5, bytes_field(1, entry)));
}

std::string session_event(double wall_time, int64_t step, Session status) {
  return event(wall_time, step, bytes_field(7, int_field(1, static_cast<int64_t>(status))));
}

EventLog::EventLog(const std::filesystem::path& folder, int64_t step) {
  static std::atomic<int> counter{0};
  char host[256] = "localhost";
  ::gethostname(host, sizeof host - 1);
  const double time = now();
  log_ = std::make_unique<AppendLog>(folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}",
                                                          static_cast<int64_t>(time), host,
                                                          ::getpid(), counter++));
  log_->append(tf_record(version_event(time)));
  log_->append(tf_record(session_event(time, step, Session::start)));
}

void EventLog::scalar(int64_t step, const std::string& tag, double value) {
  log_->append(tf_record(scalar_event(now(), step, tag, value)));
}

void EventLog::text(int64_t step, const std::string& tag, const std::string& markdown) {
  log_->append(tf_record(text_event(now(), step, tag, markdown)));
}

void EventLog::stopped(int64_t step) {
  log_->append(tf_record(session_event(now(), step, Session::stop)));
}

}  // namespace facet
