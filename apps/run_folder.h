// The folder of one run: config.toml, metrics.jsonl, checkpoints/, model.safetensors. The same
// command on the same folder continues where it stopped; another one is refused.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "apps/machine.h"
#include "tensor/file.h"
#include "tensor/serialize.h"

namespace facet {

class RunFolder {
 public:
  // Creates or reopens the folder and locks it: two processes never share one. `config` is the
  // resolved configuration; a folder that holds another is an error that names what differs.
  RunFolder(std::filesystem::path path, const std::string& config);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path model_path() const { return path_ / "model.safetensors"; }

  // One line of metrics.jsonl; numbers that JSON cannot hold become null.
  void log(const Json& record);

  // The two newest checkpoints are kept.
  void save_checkpoint(int64_t step, const std::vector<NamedTensor>& tensors, Metadata metadata);
  // The newest that is whole; a damaged one is reported and the one before it taken.
  std::optional<TensorFile> load_checkpoint() const;

 private:
  std::vector<std::filesystem::path> checkpoints() const;  // newest first

  std::filesystem::path path_;
  int lock_ = -1;
  std::unique_ptr<LineLog> metrics_;
};

}  // namespace facet
