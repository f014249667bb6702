#include "apps/machine.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <thread>

#include "apps/log.h"
#include "tensor/check.h"
#include "tensor/parallel.h"
#include "tensor/text.h"
#if defined(FACET_CUDA)
#include "cuda/runtime.h"
#endif

namespace facet {

namespace {

std::string compiler() {
#ifdef __clang__
  return __VERSION__;  // "Clang 14.0.6 ..."
#else
  return "g++ " __VERSION__;
#endif
}

// The value behind "key : value" in a file of /proc.
std::string proc_value(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) {
      const size_t at = line.find_first_not_of(" \t", line.find(':') + 1);
      return at == std::string::npos ? "" : line.substr(at);
    }
  return "unknown";
}

}  // namespace

std::string version_line() {
  return fmt::format("facet {} {} ({}, {})", FACET_VERSION, FACET_COMMIT, compiler(), FACET_BUILD);
}

Json command_line() {
  std::ifstream in("/proc/self/cmdline");
  Json words = Json::array();
  for (std::string word; std::getline(in, word, '\0');) words.push_back(word);
  return words;
}

Json machine_description() {
  struct utsname system {};
  ::uname(&system);
  const double memory = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) *
                        static_cast<double>(::sysconf(_SC_PAGESIZE)) / (1 << 30);
  return {{"version", FACET_VERSION},
          {"commit", FACET_COMMIT},
          {"compiler", compiler()},
          {"build", FACET_BUILD},
          {"processor", proc_value("/proc/cpuinfo", "model name")},
          {"cores", std::thread::hardware_concurrency()},
          {"threads", num_threads()},
          {"memory_gib", static_cast<int64_t>(memory * 10) / 10.0},
          {"system", fmt::format("{} {}", system.sysname, system.release)}};
}

std::string device_name(Device device) {
#if defined(FACET_CUDA)
  if (!device.is_cpu()) return cuda::device_description(device.index);
#endif
  static_cast<void>(device);
  return proc_value("/proc/cpuinfo", "model name");
}

std::string utc_now() {
  char text[64];
  const std::time_t now = std::time(nullptr);
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", std::gmtime(&now));
  return text;
}

void print_json(const Json& value) {
  fmt::print("{}\n", value.dump());
}

double peak_memory_mib() {
  struct rusage usage {};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

std::vector<Device> use_devices(const std::string& name) {
  if (name == "cpu") return {Device{}};
  std::vector<Device> devices;
  bool valid = name == "cuda" || name.starts_with("cuda:");
  for (const std::string& word : split_list(name.starts_with("cuda:") ? name.substr(5) : "0")) {
    const auto index = to_number<int>(word);
    valid &= index.has_value();
    devices.push_back({DeviceType::cuda, index.value_or(0)});
  }
  if (!valid || devices.empty())
    throw UsageError(
        "--device: expected cpu, cuda, cuda:N or, to pretrain on several, cuda:0,1,...; got '{}'",
        name);
#if defined(FACET_CUDA)
  cuda::install();
  for (size_t i = 0; i < devices.size(); ++i) {
    const int index = devices[i].index;
    if (index < 0 || index >= cuda::device_count())
      throw UsageError("--device: there is no cuda:{}, only cuda:0 to cuda:{}", index,
                       cuda::device_count() - 1);
    if (std::find(devices.begin(), devices.begin() + static_cast<std::ptrdiff_t>(i), devices[i]) !=
        devices.begin() + static_cast<std::ptrdiff_t>(i))
      throw UsageError("--device: cuda:{} is named twice", index);
    log_info("cuda:{} is {}", index, cuda::device_description(index));
  }
  return devices;
#else
  throw UsageError("--device: this program was built without CUDA (FACET_CUDA=off)");
#endif
}

Device use_device(const std::string& name) {
  if (name.find(',') != std::string::npos)
    throw UsageError("--device: expected one device, got '{}'", name);
  return use_devices(name).front();
}

double seconds_since_start() {
  // Field 22 of /proc/self/stat: start in clock ticks since boot; the name (field 2) may hold
  // spaces, so counting begins behind its bracket.
  std::ifstream in("/proc/self/stat");
  std::string text;
  std::getline(in, text);
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  struct timespec now {};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9 -
         std::stod(field) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

}  // namespace facet
