// Datasets that come with lists in text.
#include <map>

#include "data/listing.h"
#include "data/readers.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

using Table = std::map<std::string, std::string>;

const std::string& look_up(const Table& table, const std::string& key, const fs::path& file) {
  const auto found = table.find(key);
  if (found == table.end()) throw FileError("{}: no line for picture {}", file.string(), key);
  return found->second;
}

Table read_table(const fs::path& file) {
  Table table;
  for (auto& [key, value] : read_pairs(file)) table[key] = std::move(value);
  return table;
}

// The layout that NABirds took over from CUB: lists of "picture value". Class ids of CUB are
// 1 ... 200, those of NABirds nodes of a tree: the label is the rank among the ids that occur.
FileList read_birds(const fs::path& root) {
  FileList list{root, "ids of image_class_labels.txt, ascending"};
  const fs::path label_file = root / "image_class_labels.txt",
                 split_file = root / "train_test_split.txt", class_file = root / "classes.txt";
  const Table labels = read_table(label_file), parts = read_table(split_file),
              names = read_table(class_file);
  std::map<int64_t, int64_t> rank;
  for (const auto& [picture, label] : labels)
    rank[parse_integer(label, label_file.string(), "a class")] = 0;
  for (auto& [id, position] : rank) {
    position = static_cast<int64_t>(list.classes.size());
    list.classes.push_back(look_up(names, std::to_string(id), class_file));
  }
  for (const auto& [picture, path] : read_pairs(root / "images.txt")) {
    const std::string& flag = look_up(parts, picture, split_file);
    if (flag != "0" && flag != "1")
      throw FileError("{}: expected 0 or 1, got '{}'", split_file.string(), flag);
    const std::string& label = look_up(labels, picture, label_file);
    list.entries.push_back({"images/" + path, rank.at(parse_integer(label, "", "")),
                            flag == "1" ? Part::train : Part::test});
  }
  return list;
}

// Lists of "CLASS/PICTURE", one a part.
void add_lists(FileList& list, const std::vector<std::pair<Part, std::string>>& parts,
               const std::string& prefix, const std::string& suffix) {
  const ClassRanks ranks(list.classes);
  for (const auto& [part, name] : parts) {
    const fs::path file = list.root / name;
    for (const std::string& line : read_lines(file)) {
      const size_t slash = line.rfind('/');
      if (slash == std::string::npos)
        throw FileError("{}: expected class/picture, got '{:.80}'", file.string(), line);
      list.entries.push_back({prefix + line + suffix, ranks.at(line.substr(0, slash), file), part});
    }
  }
}

}  // namespace

FileList read_cub200(const Folder& folder, const ReaderOptions&) {
  return read_birds(find_root(folder, {"CUB_200_2011"}, "images.txt", "CUB-200-2011"));
}

FileList read_nabirds(const Folder& folder, const ReaderOptions&) {
  return read_birds(find_root(folder, {"nabirds"}, "images.txt", "NABirds"));
}

FileList read_food101(const Folder& folder, const ReaderOptions&) {
  FileList list{find_root(folder, {"food-101"}, "meta/classes.txt", "Food-101"), "classes.txt"};
  list.classes = read_lines(list.root / "meta/classes.txt");
  add_lists(list, {{Part::train, "meta/train.txt"}, {Part::test, "meta/test.txt"}}, "images/",
            ".jpg");
  return list;
}

FileList read_dtd(const Folder& folder, const ReaderOptions& options) {
  FileList list{find_root(folder, {"dtd", "dtd/dtd"}, "labels", "DTD"), "folders in byte order"};
  list.classes = list_folders(list.root / "images");
  const auto file = [&](const char* part) {
    return fmt::format("labels/{}{}.txt", part, options.partition);
  };
  add_lists(list,
            {{Part::train, file("train")}, {Part::val, file("val")}, {Part::test, file("test")}},
            "images/", "");
  return list;
}

FileList read_indoor67(const Folder& folder, const ReaderOptions&) {
  FileList list{find_root(folder, {"indoor67"}, "TrainImages.txt", "MIT Indoor-67"),
                "folders in byte order"};
  list.classes = list_folders(list.root / "Images");
  add_lists(list, {{Part::train, "TrainImages.txt"}, {Part::test, "TestImages.txt"}}, "Images/",
            "");
  return list;
}

// The partitions are a download of their own: beside the pictures, above, or in Partitions/.
FileList read_sun397(const Folder& folder, const ReaderOptions& options) {
  FileList list{find_root(folder, {"SUN397"}, "ClassName.txt", "SUN397"), "ClassName.txt"};
  list.classes = read_lines(list.root / "ClassName.txt");
  const auto file = [&](const char* part) {
    const std::string name = fmt::format("{}_{:02}.txt", part, options.partition);
    for (const fs::path below : {".", "Partitions", "..", "../Partitions"})
      if (fs::exists(list.root / below / name)) return (below / name).lexically_normal().string();
    throw FileError("{}: expected {} there, above, or in Partitions, found none",
                    list.root.string(), name);
  };
  // Classes and lines begin with '/'.
  add_lists(list, {{Part::train, file("Training")}, {Part::test, file("Testing")}}, "", "");
  for (FileEntry& entry : list.entries) entry.path.erase(0, entry.path.find_first_not_of('/'));
  return list;
}

FileList read_aircraft(const Folder& folder, const ReaderOptions& options) {
  FileList list{
      find_root(folder, {"data", "fgvc-aircraft-2013b/data"}, "variants.txt", "FGVC Aircraft"),
      "variants.txt"};
  list.classes = read_lines(list.root / "variants.txt");
  if (!options.banner) list.banner = 20;
  const ClassRanks ranks(list.classes);
  for (const auto& [part, name] : {std::pair{Part::train, "images_variant_train.txt"},
                                   {Part::val, "images_variant_val.txt"},
                                   {Part::test, "images_variant_test.txt"}}) {
    const fs::path file = list.root / name;
    for (const auto& [picture, variant] : read_pairs(file))
      list.entries.push_back({"images/" + picture + ".jpg", ranks.at(variant, file), part});
  }
  return list;
}

FileList read_pets(const Folder& folder, const ReaderOptions&) {
  FileList list{find_root(folder, {"oxford-iiit-pet"}, "annotations", "Oxford-IIIT Pets"),
                "ids of trainval.txt"};
  std::map<int64_t, std::string> names;  // 1 ... 37
  for (const auto& [part, name] :
       {std::pair{Part::train, "annotations/trainval.txt"}, {Part::test, "annotations/test.txt"}}) {
    const fs::path file = list.root / name;
    for (const auto& [picture, values] : read_pairs(file)) {
      if (picture.starts_with("#")) continue;
      const std::string breed = picture.substr(0, picture.rfind('_'));
      const int64_t id = parse_integer(values.substr(0, values.find(' ')), file.string(),
                                       "the class of " + picture);
      const auto [known, added] = names.emplace(id, breed);
      if (known->second != breed || id < 1)
        throw FileError("{}: class {} of {} is '{}' elsewhere; expected classes from 1",
                        file.string(), id, picture, known->second);
      list.entries.push_back({"images/" + picture + ".jpg", id - 1, part});
    }
  }
  for (const auto& [id, breed] : names) {
    if (id != static_cast<int64_t>(list.classes.size()) + 1)
      throw FileError("{}: expected classes 1, 2, ... without gaps, got {} after {}",
                      list.root.string(), id, list.classes.size());
    list.classes.push_back(breed);
  }
  return list;
}

}  // namespace facet
