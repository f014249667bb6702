// Datasets whose pictures lie in files: a list of paths and labels, decoded on demand.
#pragma once

#include <filesystem>
#include <optional>

#include "data/dataset.h"
#include "tensor/file.h"

namespace facet {

enum class Part : uint8_t { train, val, test };

// Where a picture lies and what it shows.
struct FileEntry {
  std::string path;  // below the root, with '/'; of a tar file: the member's name
  int64_t label = 0;
  Part part = Part::train;
  std::vector<int32_t> labels = {};  // instead of `label` for a multi-label task
  int32_t archive = -1;              // of FileList::archives; -1: a file of its own
  size_t offset = 0, size = 0;       // in the archive
};

// All that a reader finds in a tree; which part is for training is decided later.
struct FileList {
  std::filesystem::path root;
  std::string order;  // of the classes, in words
  std::vector<std::string> classes = {};
  std::vector<FileEntry> entries = {};
  std::vector<std::shared_ptr<const InputFile>> archives = {};
  bool multi_label = false;
  int banner = 0;  // rows at the bottom of every picture that are left out
};

// official: the dataset's own train and test parts; paper: those behind Table 2 of the paper;
// trainval: what is set aside for validation trains, too. standard: official, where there is one.
enum class Protocol : uint8_t { standard, official, paper, trainval };

struct Counts {
  int64_t train = 0, test = 0;  // 0: not known
};

// What is known of a dataset, against which a tree is checked.
struct DatasetFacts {
  const char* name;
  int64_t classes = 0;  // 0: any
  Counts official = {}, paper = {}, trainval = {};
  // The paper's split takes all pictures, 80 and 20 % of every class (also the standard one where
  // nothing is official).
  bool paper_pools = false;
};

struct SplitOptions {
  Protocol protocol = Protocol::standard;
  // The counts that the tree has to have; none: the facts' own. Without `check_counts` any will do.
  std::optional<Counts> counts = {};
  bool check_counts = true;
};

class FileListDataset final : public Dataset {
 public:
  // The pictures of one split. A FileError for wrong counts, labels outside of the classes, a class
  // without training pictures, a picture in both splits, and files that are missing.
  FileListDataset(const DatasetFacts& facts, FileList list, Split split,
                  const SplitOptions& options);

  std::string name() const override { return name_; }
  int64_t size() const override { return static_cast<int64_t>(list_.entries.size()); }
  const std::vector<std::string>& classes() const override { return list_.classes; }
  Image image(int64_t index) const override { return sample(index).decode(); }
  Sample sample(int64_t index) const override;
  const Tensor& labels() const override { return labels_; }
  // SHA-256 of the manifest (and of the banner's height, where it is left out).
  std::string fingerprint() const override { return hash_; }
  std::string describe() const override;
  std::string where(int64_t index) const override;  // path and class
  // A line "path <tab> label <tab> split" for each picture.
  std::string manifest() const;

 private:
  std::string name_, split_, protocol_, hash_;
  FileList list_;
  Tensor labels_;
};

// The paper's rule where it pools all pictures: those of a class in byte order of their paths,
// shuffled (Fisher-Yates, Philox of seed 0 and the class), the last floor(0.2 n) for testing.
void split_80_20(FileList& list);

}  // namespace facet
