#include "apps/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "apps/log.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

constexpr size_t kKeptCheckpoints = 2;

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

}  // namespace

RunFolder::RunFolder(fs::path path, const std::string& config) : path_(std::move(path)) {
  make_folder(path_ / "checkpoints");
  const fs::path lock = path_ / ".lock";
  lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0)
    throw FileError(fmt::format("cannot write {}: {}", lock.string(), std::strerror(errno)));
  if (::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    ::close(std::exchange(lock_, -1));
    throw FileError(fmt::format("{}: another process is working in it", path_.string()));
  }
  for (const fs::path& folder : {path_, path_ / "checkpoints"}) remove_stale_temporaries(folder);
  const fs::path config_path = path_ / "config.toml";
  if (!fs::exists(config_path)) {
    write_file(config_path, config);
  } else if (const std::string before = read_file(config_path); before != config) {
    throw UsageError(fmt::format("{} holds a run with other settings: {}; choose another --output",
                                 path_.string(), first_difference(before, config)));
  }
  metrics_ = std::make_unique<LineLog>(path_ / "metrics.jsonl");
}

RunFolder::~RunFolder() {
  if (lock_ >= 0) ::close(lock_);
}

void RunFolder::log(const Json& record) {
  metrics_->write(record.dump());
}

std::vector<fs::path> RunFolder::checkpoints() const {
  std::vector<fs::path> list;
  for (const auto& entry : fs::directory_iterator(path_ / "checkpoints"))
    if (entry.path().extension() == ".safetensors") list.push_back(entry.path());
  // Steps are written with as many zeros as sort by number.
  std::sort(list.rbegin(), list.rend());
  return list;
}

void RunFolder::save_checkpoint(int64_t step, const std::vector<NamedTensor>& tensors,
                                Metadata metadata) {
  metadata["step"] = std::to_string(step);
  save_safetensors(path_ / "checkpoints" / fmt::format("step-{:010}.safetensors", step), tensors,
                   std::move(metadata));
  const std::vector<fs::path> all = checkpoints();
  for (size_t i = kKeptCheckpoints; i < all.size(); ++i) fs::remove(all[i]);
}

std::optional<TensorFile> RunFolder::load_checkpoint() const {
  for (const fs::path& path : checkpoints()) try {
      return load_safetensors(path);
    } catch (const FileError& e) {
      log_info("warning: {}; trying the checkpoint before it", e.what());
    }
  return std::nullopt;
}

}  // namespace facet
