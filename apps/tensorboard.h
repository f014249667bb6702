// TensorBoard's event files, written without TensorBoard: records framed by checksums (TFRecord),
// each one protobuf message Event.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "tensor/file.h"

namespace facet {

uint32_t crc32c(std::string_view bytes);
// u64 length, its masked CRC-32C, the data, its masked CRC-32C; all little-endian.
std::string tf_record(std::string_view data);

// The bytes of one Event each. wall_time: seconds since 1970.
enum class Session : uint8_t { start = 1, stop = 2 };
std::string version_event(double wall_time);  // the first of every file
std::string scalar_event(double wall_time, int64_t step, const std::string& tag, double value);
std::string text_event(double wall_time, int64_t step, const std::string& tag,
                       const std::string& markdown);
std::string session_event(double wall_time, int64_t step, Session status);

// A new file in `folder` for a process that goes on after `step` steps: TensorBoard then drops what
// earlier files of the folder hold beyond that step. An old file is never appended to.
class EventLog {
 public:
  EventLog(const std::filesystem::path& folder, int64_t step);

  void scalar(int64_t step, const std::string& tag, double value);
  void text(int64_t step, const std::string& tag, const std::string& markdown);
  void stopped(int64_t step);  // on request, before the run's end

 private:
  std::unique_ptr<AppendLog> log_;
};

}  // namespace facet
