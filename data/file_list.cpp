#include "data/file_list.h"

#include <algorithm>
#include <unordered_set>

#include "tensor/hash.h"
#include "tensor/random.h"
#include "tensor/text.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

constexpr size_t kNamed = 10;  // files that a message names
constexpr size_t kMaxFile = size_t{512} << 20;

constexpr const char* kProtocols[] = {"its own", "official", "the paper's", "trainval"};

void check_counts(const std::string& where, const Counts& got, const Counts& want) {
  const auto wrong = [](int64_t is, int64_t should) { return should > 0 && is != should; };
  if (!wrong(got.train, want.train) && !wrong(got.test, want.test)) return;
  const bool swapped = got.train == want.test && got.test == want.train;
  throw FileError("{}: expected {} training and {} test pictures, got {} and {}{}", where,
                  want.train, want.test, got.train, got.test,
                  swapped ? "; the splits have been swapped"
                          : "; the tree is not whole (',check=off' takes it as it is)");
}

void check_unique(const std::string& where, const std::vector<FileEntry>& entries) {
  std::unordered_set<std::string_view> seen;
  std::vector<std::string> twice;
  for (const FileEntry& entry : entries)
    if (!seen.insert(entry.path).second) twice.push_back(entry.path);
  if (!twice.empty())
    throw FileError("{}: {} pictures are listed twice or in both splits: {}", where, twice.size(),
                    some_of(twice, kNamed));
}

void check_labels(const std::string& where, const FileList& list) {
  const auto classes = static_cast<int64_t>(list.classes.size());
  std::vector<bool> seen(list.classes.size());
  bool trains = false;
  for (const FileEntry& entry : list.entries) {
    const auto check = [&](int64_t label) {
      if (label < 0 || label >= classes)
        throw FileError("{}: {} has label {}, expected 0 to {}", where, entry.path, label,
                        classes - 1);
      if (entry.part == Part::train) seen[static_cast<size_t>(label)] = true;
    };
    trains |= entry.part == Part::train;
    if (!list.multi_label) check(entry.label);
    for (const int32_t label : entry.labels) check(label);
  }
  std::vector<std::string> without;
  for (size_t c = 0; c < seen.size(); ++c)
    if (!seen[c]) without.push_back(list.classes[c]);
  if (trains && !without.empty())
    throw FileError("{}: {} of {} classes have no training picture: {}", where, without.size(),
                    classes, some_of(without, kNamed));
}

void check_files(const std::string& where, const FileList& list) {
  std::vector<std::string> missing;
  for (const FileEntry& entry : list.entries)
    if (entry.archive < 0 && !fs::is_regular_file(list.root / entry.path))
      missing.push_back(entry.path);
  if (!missing.empty())
    throw FileError("{}: {} of {} listed pictures are missing: {}", where, missing.size(),
                    list.entries.size(), some_of(missing, kNamed));
}

}  // namespace

void split_80_20(FileList& list) {
  std::ranges::stable_sort(list.entries, {},
                           [](const auto& e) { return std::tie(e.label, e.path); });
  for (size_t begin = 0, end = 0; begin < list.entries.size(); begin = end) {
    const int64_t label = list.entries[begin].label;
    std::vector<size_t> order;
    for (end = begin; end < list.entries.size() && list.entries[end].label == label; ++end)
      order.push_back(end);
    RandomSequence random(random_key(0, RandomPurpose::split).child(static_cast<uint64_t>(label)));
    random.shuffle(order);
    const size_t trained = order.size() - order.size() / 5;
    for (size_t i = 0; i < order.size(); ++i)
      list.entries[order[i]].part = i < trained ? Part::train : Part::test;
  }
}

FileListDataset::FileListDataset(const DatasetFacts& facts, FileList list, Split split,
                                 const SplitOptions& options)
    : name_(facts.name), split_(facet::name(split)), list_(std::move(list)) {
  const std::string where = list_.root.string();
  if (facts.paper_pools && facts.official.train == 0 && options.protocol != Protocol::paper &&
      options.protocol != Protocol::standard)
    throw UsageError("{}: there is no official split; expected split=paper", facts.name);
  const bool pools =
      facts.paper_pools && (options.protocol == Protocol::paper || facts.official.train == 0);
  protocol_ = kProtocols[static_cast<size_t>(pools ? Protocol::paper : options.protocol)];

  check_unique(where, list_.entries);
  if (pools)
    split_80_20(list_);
  else
    for (FileEntry& entry : list_.entries)
      if (entry.part == Part::val && options.protocol == Protocol::trainval)
        entry.part = Part::train;
  if (options.check_counts) {
    Counts got;
    for (const FileEntry& entry : list_.entries) {
      got.train += entry.part == Part::train;
      got.test += entry.part == Part::test;
    }
    Counts want = options.protocol == Protocol::trainval         ? facts.trainval
                  : pools || options.protocol == Protocol::paper ? facts.paper
                                                                 : facts.official;
    if (want.train == 0 && want.test == 0) want = facts.official;
    want = options.counts.value_or(want);
    // A reader may have listed one split alone.
    if (got.train == 0 && split == Split::test) want.train = 0;
    if (got.test == 0 && split == Split::train) want.test = 0;
    check_counts(where, got, want);
    if (!options.counts && facts.classes > 0 &&
        static_cast<int64_t>(list_.classes.size()) != facts.classes)
      throw FileError("{}: expected {} classes, got {}", where, facts.classes,
                      list_.classes.size());
  }
  check_labels(where, list_);
  std::erase_if(list_.entries, [&](const FileEntry& entry) {
    return entry.part != (split == Split::train ? Part::train : Part::test);
  });
  if (list_.entries.empty()) throw FileError("{}: no {} pictures", where, facet::name(split));
  check_files(where, list_);

  const auto n = static_cast<int64_t>(list_.entries.size());
  if (list_.multi_label) {
    const auto classes = static_cast<int64_t>(list_.classes.size());
    labels_ = Tensor::zeros({n, classes});
    for (int64_t i = 0; i < n; ++i)
      for (const int32_t label : list_.entries[static_cast<size_t>(i)].labels)
        labels_.data<float>()[i * classes + label] = 1;
  } else {
    labels_ = Tensor::empty({n}, DType::i64);
    for (int64_t i = 0; i < n; ++i)
      labels_.data<int64_t>()[i] = list_.entries[static_cast<size_t>(i)].label;
  }
  hash_ = sha256(list_.banner > 0 ? fmt::format("{}banner {}\n", manifest(), list_.banner)
                                  : manifest());
}

std::string FileListDataset::manifest() const {
  std::string text;
  for (const FileEntry& entry : list_.entries)
    text += fmt::format("{}\t{}\t{}\n", entry.path,
                        list_.multi_label ? fmt::format("{}", fmt::join(entry.labels, ","))
                                          : std::to_string(entry.label),
                        split_);
  return text;
}

std::string FileListDataset::describe() const {
  return fmt::format("{} ({} split; classes: {}{}; manifest sha256 {:.12})", name_, protocol_,
                     list_.order, list_.banner > 0 ? "; without banners" : "", hash_);
}

std::string FileListDataset::where(int64_t index) const {
  const FileEntry& entry = list_.entries.at(static_cast<size_t>(index));
  const std::string path = (list_.root / entry.path).string();
  if (list_.multi_label) return path;
  return fmt::format("{} (class '{}')", path, list_.classes[static_cast<size_t>(entry.label)]);
}

Sample FileListDataset::sample(int64_t index) const {
  FACET_CHECK(index >= 0 && index < size(), "dataset", "{}: no sample {} among {}", name_, index,
              size());
  const FileEntry& entry = list_.entries[static_cast<size_t>(index)];
  const std::string shown = where(index);
  std::vector<uint8_t> bytes;
  const auto read = [&](const InputFile& file, size_t offset, size_t size) {
    if (size > kMaxFile) throw FileError("{}: {} bytes are no picture", shown, size);
    bytes.resize(size);
    file.read(offset, std::as_writable_bytes(std::span(bytes)));
  };
  if (entry.archive >= 0) {
    read(*list_.archives[static_cast<size_t>(entry.archive)], entry.offset, entry.size);
  } else {
    const InputFile file(list_.root / entry.path);
    read(file, 0, file.size());
  }
  return Sample(EncodedPicture(std::move(bytes), shown, list_.banner));
}

}  // namespace facet
