#include "apps/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "apps/log.h"
#include "tensor/hash.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

constexpr size_t kKeptCheckpoints = 2;
constexpr const char* kSeal = "facet.seal";

// The first line that differs, as "lr = 0.1 there, lr = 0.2 asked for".
std::string first_difference(const std::string& there, const std::string& asked) {
  std::istringstream a(there), b(asked);
  std::string x, y;
  do {
    x.clear(), y.clear();
    std::getline(a, x);
    std::getline(b, y);
  } while (x == y);
  return fmt::format("it has '{}', asked for '{}'", x, y);
}

// FNV-1a over metadata, names, types and shapes: what the checksum of a file leaves out.
std::string seal_of(const std::vector<NamedTensor>& tensors, const Metadata& metadata) {
  std::string text;
  for (const auto& [key, value] : metadata)
    if (key.starts_with("facet.") && key != kSeal && key != "facet.checksum")
      text += key + value + '\n';
  std::vector<std::string> lines;
  for (const auto& [name, value] : tensors)
    lines.push_back(fmt::format("{} {} {}", name, facet::name(value.dtype()), value.shape()));
  std::sort(lines.begin(), lines.end());
  for (const std::string& line : lines) text += line + '\n';
  return fmt::format("{:016x}", fnv1a(text));
}

// A whole file, or a FileError.
TensorFile load_sealed(const fs::path& path) {
  TensorFile file = load_safetensors(path);
  if (file.metadata[kSeal] != seal_of(file.tensors, file.metadata))
    throw FileError("{}: its header is not the one that was written: the file is damaged",
                    path.string());
  return file;
}

}  // namespace

RunFolder::RunFolder(fs::path path, const std::string& config)
    : path_(std::move(path)), config_(config) {
  make_folder(path_ / "checkpoints");
  const fs::path lock = path_ / ".lock";
  lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) throw FileError("cannot write {}: {}", lock.string(), std::strerror(errno));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    ::close(std::exchange(lock_, -1));
    throw FileError("{}: another process is working in it", path_.string());
  }
  for (const fs::path& folder : {path_, path_ / "checkpoints"}) remove_stale_temporaries(folder);
  const fs::path config_path = path_ / "config.toml";
  if (!fs::exists(config_path)) {
    write_file(config_path, config);
  } else if (const std::string before = read_file(config_path); before != config) {
    throw UsageError("{} holds a run with other settings: {}; choose another --output",
                     path_.string(), first_difference(before, config));
  }
  metrics_ = std::make_unique<LineLog>(path_ / "metrics.jsonl");
}

RunFolder::~RunFolder() {
  if (lock_ >= 0) ::close(lock_);
}

void RunFolder::begin(int64_t step, const Json& session) {
  LineLog(path_ / "sessions.jsonl").write(session.dump());
  try {
    events_ = std::make_unique<EventLog>(path_, step);
  } catch (const FileError& e) {
    log_info("warning: no event file: {}", e.what());
    return;
  }
  std::string code;  // Markdown: four spaces before each line
  std::istringstream lines(config_);
  for (std::string line; std::getline(lines, line);) code += "    " + line + "\n";
  events_->text(step, "config", code);
}

void RunFolder::log(const Json& record) {
  metrics_->write(record.dump());
  if (!events_) return;
  const auto step = record.value<int64_t>("step", 0);
  const auto split = record.value<std::string>("split", "train");
  for (const auto& [name, value] : record.items())
    if (value.is_number() && name != "step")
      events_->scalar(step, split + "/" + name, value.get<double>());
}

void RunFolder::stopped(int64_t step) {
  if (events_) events_->stopped(step);
}

void RunFolder::expect_space(size_t bytes) const {
  struct statvfs disk;
  if (::statvfs(path_.c_str(), &disk) != 0) return;
  const double wanted = 1.2 * static_cast<double>(bytes),
               free = static_cast<double>(disk.f_bavail) * static_cast<double>(disk.f_frsize);
  if (free < wanted)
    throw FileError(
        "{}: expected {:.1f} MiB free for checkpoints, got {:.1f}: free some or choose "
        "another --output",
        path_.string(), wanted / (1 << 20), free / (1 << 20));
}

std::vector<fs::path> RunFolder::checkpoints() const {
  std::vector<fs::path> list;
  for (const auto& entry : fs::directory_iterator(path_ / "checkpoints"))
    if (const fs::path& file = entry.path();
        file.extension() == ".safetensors" && file.filename().string().starts_with("step-"))
      list.push_back(file);
  // Steps are written with as many zeros as sort by number.
  std::sort(list.rbegin(), list.rend());
  return list;
}

void RunFolder::save_checkpoint(int64_t step, const std::vector<NamedTensor>& tensors,
                                Metadata metadata, bool best) {
  const fs::path folder = path_ / "checkpoints";
  const fs::path file = folder / fmt::format("step-{:010}.safetensors", step);
  metadata["facet.step"] = std::to_string(step);
  metadata[kSeal] = seal_of(tensors, metadata);
  save_safetensors(file, tensors, metadata);
  const std::string pointer = fmt::format("{} {}\n", file.filename().string(), metadata[kSeal]);
  if (best) write_file(folder / "best", pointer);
  write_file(folder / "latest", pointer);
  const std::string kept = fs::exists(folder / "best") ? read_file(folder / "best") : std::string();
  const std::vector<fs::path> all = checkpoints();
  for (size_t i = kKeptCheckpoints; i < all.size(); ++i)
    if (!kept.starts_with(all[i].filename().string() + " ")) remove_file(all[i]);
}

fs::path RunFolder::save_crash(int64_t step, const std::vector<NamedTensor>& tensors,
                               Metadata metadata) {
  const fs::path file = path_ / "checkpoints" / fmt::format("crash-{:010}.safetensors", step);
  metadata["facet.step"] = std::to_string(step);
  save_safetensors(file, tensors, std::move(metadata));
  return file;
}

std::optional<TensorFile> RunFolder::load_checkpoint() const {
  const std::vector<fs::path> all = checkpoints();
  for (size_t i = 0; i < all.size(); ++i) try {
      TensorFile file = load_sealed(all[i]);
      // Out of the way, so that they do not count among the two that are kept.
      for (size_t bad = 0; bad < i; ++bad) {
        std::error_code ignored;
        fs::rename(all[bad], all[bad].parent_path() / ("damaged-" + all[bad].filename().string()),
                   ignored);
      }
      return file;
    } catch (const FileError& e) {
      log_info("warning: {}; trying the checkpoint before it", e.what());
    }
  if (all.empty()) return std::nullopt;
  throw FileError(
      "{}: expected a whole checkpoint, got {} damaged ones; remove the folder to begin anew",
      (path_ / "checkpoints").string(), all.size());
}

}  // namespace facet
