// MS-COCO: which of its 80 categories a picture shows.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "data/listing.h"
#include "data/mapped_file.h"
#include "data/readers.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

using nlohmann::json;

// Takes what counts from the stream of an annotation file of hundreds of megabytes and keeps
// nothing of the rest: outlines above all.
class Reader : public nlohmann::json_sax<json> {
 public:
  struct Picture {
    std::string file;
    std::set<int64_t> categories;
  };
  std::map<int64_t, Picture> pictures;
  std::map<int64_t, std::string> categories;
  std::string problem;

  explicit Reader(bool crowd) : crowd_(crowd) {}

  bool key(string_t& name) override {
    if (depth_ == 1) section_ = name;
    if (depth_ == kRecord) field_ = name;
    return true;
  }
  bool start_object(size_t) override {
    if (depth_ == kRecord - 1) record_ = {};
    return deeper();
  }
  bool end_object() override {
    --depth_;
    return depth_ != kRecord - 1 || finish();
  }
  bool start_array(size_t) override { return deeper(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool number_integer(number_integer_t value) override { return number(value); }
  bool number_unsigned(number_unsigned_t value) override {
    return number(static_cast<int64_t>(std::min<uint64_t>(value, INT64_MAX)));
  }
  bool string(string_t& value) override {
    if (depth_ == kRecord && (field_ == "file_name" || field_ == "name")) record_.text = value;
    return true;
  }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool parse_error(size_t at, const std::string&, const nlohmann::detail::exception&) override {
    problem = fmt::format("damaged JSON at byte {}", at);
    return false;
  }

 private:
  static constexpr int kRecord = 3, kDeepest = 32;  // {"images": [{...

  struct Record {
    int64_t id = -1, image = -1, category = -1, crowd = 0;
    std::string text;
  };

  bool deeper() {
    if (++depth_ <= kDeepest) return true;
    problem = "too deeply nested";
    return false;
  }
  bool number(int64_t value) {
    if (depth_ != kRecord) return true;
    if (field_ == "id") record_.id = value;
    if (field_ == "image_id") record_.image = value;
    if (field_ == "category_id") record_.category = value;
    if (field_ == "iscrowd") record_.crowd = value;
    return true;
  }
  // A record is complete. Annotations may come before pictures.
  bool finish() {
    const auto need = [&](bool holds, const char* what) {
      if (!holds) problem = fmt::format("a record of '{}' without {}", section_, what);
      return holds;
    };
    if (section_ == "images") {
      if (!need(record_.id >= 0 && !record_.text.empty(), "id and file_name")) return false;
      std::string& file = pictures[record_.id].file;
      if (!file.empty()) problem = fmt::format("two pictures with id {}", record_.id);
      file = record_.text;
    } else if (section_ == "categories") {
      if (!need(record_.id >= 0 && !record_.text.empty(), "id and name")) return false;
      categories[record_.id] = record_.text;
    } else if (section_ == "annotations") {
      if (!need(record_.image >= 0 && record_.category >= 0, "image_id and category_id"))
        return false;
      if (crowd_ || record_.crowd == 0) pictures[record_.image].categories.insert(record_.category);
    }
    return problem.empty();
  }

  bool crowd_;
  int depth_ = 0;
  std::string section_, field_;
  Record record_;
};

FileList read_coco(const Folder& folder, const ReaderOptions& options, int year) {
  const fs::path root = find_root(folder, {"coco", "mscoco"}, "annotations", "MS-COCO");
  FileList list{root, "category ids, ascending"};
  list.multi_label = true;
  const bool train = options.split == Split::train;
  const std::string part = fmt::format("{}{}", train ? "train" : "val", year);
  const fs::path file = root / "annotations" / fmt::format("instances_{}.json", part);
  const MappedFile mapped(file);
  CocoImages found = parse_coco(mapped.text(), file.string(), part + "/",
                                train ? Part::train : Part::test, options.crowd);
  list.classes = std::move(found.classes);
  list.entries = std::move(found.entries);
  // The paper's pictures are those with an annotation.
  if (options.protocol == Protocol::paper)
    std::erase_if(list.entries, [](const FileEntry& entry) { return entry.labels.empty(); });
  return list;
}

}  // namespace

CocoImages parse_coco(std::string_view text, const std::string& file, const std::string& where,
                      Part part, bool crowd) {
  Reader reader(crowd);
  const bool whole = json::sax_parse(text.begin(), text.end(), &reader);
  const auto fail = [&](const std::string& problem) {
    throw FileError("{}: no COCO annotations: {}", file, problem);
  };
  if (!whole || !reader.problem.empty()) fail(reader.problem);
  CocoImages result;
  std::map<int64_t, int32_t> rank;
  for (const auto& [id, name] : reader.categories) {
    rank[id] = static_cast<int32_t>(result.classes.size());
    result.classes.push_back(name);
  }
  if (rank.empty() || reader.pictures.empty()) fail("no categories or no images");
  for (auto& [id, picture] : reader.pictures) {
    if (picture.file.empty()) fail(fmt::format("annotations of picture {}, which it lacks", id));
    FileEntry entry{where + picture.file, 0, part};
    for (const int64_t category : picture.categories) {
      const auto found = rank.find(category);
      if (found == rank.end()) fail(fmt::format("category {} of picture {}", category, id));
      entry.labels.push_back(found->second);
    }
    result.entries.push_back(std::move(entry));
  }
  return result;
}

FileList read_coco2014(const Folder& folder, const ReaderOptions& options) {
  return read_coco(folder, options, 2014);
}
FileList read_coco2017(const Folder& folder, const ReaderOptions& options) {
  return read_coco(folder, options, 2017);
}

}  // namespace facet
