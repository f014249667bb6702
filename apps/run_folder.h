// The folder of one run: config.toml, metrics.jsonl and TensorBoard's event files with the same
// numbers, sessions.jsonl (a line for every process that worked on it), checkpoints/,
// model.safetensors. The same command on the same folder continues where it stopped; another one is
// refused.
//
// checkpoints/ holds step-N.safetensors, the newest two and the best; `latest` and `best`, each a
// line of the name and the seal (a hash of its header) of one of them; crash-N.safetensors, a state
// that holds a NaN or an infinity, which is never continued from; damaged-*, what could not be
// read.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "apps/machine.h"
#include "apps/tensorboard.h"
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

  // Begins the records of this process, which goes on after `step` steps. `session`: who it is.
  void begin(int64_t step, const Json& session);
  // One line of metrics.jsonl; numbers that JSON cannot hold become null. Every number goes to
  // TensorBoard as "split/name", too.
  void log(const Json& record);
  void stopped(int64_t step);  // for TensorBoard: on request, before the end

  // Throws unless that many bytes, and a fifth more, are free.
  void expect_space(size_t bytes) const;
  // Older ones go only once the new one lies on the disk.
  void save_checkpoint(int64_t step, const std::vector<NamedTensor>& tensors, Metadata metadata,
                       bool best = false);
  // Of a state that must not be continued from; returns its file.
  std::filesystem::path save_crash(int64_t step, const std::vector<NamedTensor>& tensors,
                                   Metadata metadata);
  bool has_checkpoint() const { return !checkpoints().empty(); }
  // The newest that is whole; a damaged one is reported and the one before it taken. Throws where
  // there are some and none is whole.
  std::optional<TensorFile> load_checkpoint() const;

 private:
  std::vector<std::filesystem::path> checkpoints() const;  // newest first

  std::filesystem::path path_;
  std::string config_;
  int lock_ = -1;
  std::unique_ptr<LineLog> metrics_;
  std::unique_ptr<EventLog> events_;
};

}  // namespace facet
