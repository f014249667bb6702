// Datasets whose classes are folders: ImageNet, Caltech-256, and any such tree.
#include <algorithm>
#include <map>

#include "data/listing.h"
#include "data/mat.h"
#include "data/readers.h"
#include "tensor/tar.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

// All pictures below root/inner/CLASS for every class.
void add_classes(FileList& list, const std::string& inner, Part part) {
  for (size_t c = 0; c < list.classes.size(); ++c) {
    const std::string folder = inner + list.classes[c];
    if (!fs::is_directory(list.root / folder)) continue;  // its lack of pictures will be noticed
    for (const std::string& picture : list_pictures(list.root / folder))
      list.entries.push_back({folder + '/' + picture, static_cast<int64_t>(c), part});
  }
}

constexpr const char* kByteOrder = "folders in byte order, as torchvision";

}  // namespace

FileList read_class_folders(const Folder& folder, const ReaderOptions& options) {
  FileList list{folder, kByteOrder};
  const bool parts = fs::is_directory(folder / "train");
  const std::string train = parts ? "train/" : "";
  list.classes = list_folders(folder / train);
  if (list.classes.empty())
    throw FileError("{}: expected a folder a class, found none", folder.string());
  if (options.natural_order) {
    std::sort(list.classes.begin(), list.classes.end(), natural_less);
    list.order = "folders in natural order, as timm";
  }
  add_classes(list, train, Part::train);
  if (!parts) {
    split_80_20(list);
    return list;
  }
  for (const std::string test : {"val", "test", "valid"}) {
    if (!fs::is_directory(folder / test)) continue;
    const std::vector<std::string> classes = list_folders(folder / test);
    const ClassRanks ranks(list.classes);
    for (const std::string& name : classes) ranks.at(name, (folder / test).string());
    add_classes(list, test + '/', Part::test);
    return list;
  }
  throw FileError("{}: expected val or test beside train", folder.string());
}

FileList read_caltech256(const Folder& folder, const ReaderOptions&) {
  FileList list{find_root(folder, {"256_ObjectCategories"}, "001.ak47", "Caltech-256"), kByteOrder};
  list.classes = list_folders(list.root);
  for (size_t c = 0; c < list.classes.size(); ++c) {
    // What is official lies directly in the class's folder and bears its number: 056.dog/greg/ and
    // 198.spider/RENAME2 are none of it.
    const std::string& name = list.classes[c];
    for (const std::string& picture : list_pictures(list.root / name))
      if (picture.find('/') == std::string::npos && picture.starts_with(name.substr(0, 3) + "_"))
        list.entries.push_back({name + '/' + picture, static_cast<int64_t>(c)});
  }
  return list;
}

// ---- ImageNet (ILSVRC 2012)
namespace {

constexpr const char* kWnids = "WordNet ids in byte order";
constexpr const char* kTrainTar = "ILSVRC2012_img_train.tar";
constexpr const char* kValTar = "ILSVRC2012_img_val.tar";
constexpr const char* kDevkit = "ILSVRC2012_devkit_t12";

// The WordNet id of every picture of the validation set, in the order of their names. The file
// holds ILSVRC2012_IDs, which meta.mat explains: they are no ranks of sorted WordNet ids.
std::vector<std::string> validation_wnids(const fs::path& root) {
  const std::string truth_name = "data/ILSVRC2012_validation_ground_truth.txt";
  std::string meta, truth;
  const fs::path folder = root / kDevkit, packed = root / (std::string(kDevkit) + ".tar.gz");
  if (fs::is_directory(folder)) {
    meta = read_file(folder / "data/meta.mat");
    truth = read_file(folder / truth_name);
  } else if (fs::exists(packed)) {
    const std::string archive = read_gzip(packed, size_t{64} << 20);
    const auto read = [&](size_t offset, std::span<std::byte> into) {
      std::copy_n(reinterpret_cast<const std::byte*>(archive.data()) + offset, into.size(),
                  into.begin());
    };
    for (const TarMember& member : index_tar(read, 0, archive.size(), packed.string())) {
      if (member.name.ends_with("data/meta.mat")) meta = archive.substr(member.offset, member.size);
      if (member.name.ends_with(truth_name)) truth = archive.substr(member.offset, member.size);
    }
  }
  if (meta.empty() || truth.empty())
    throw FileError("{}: expected {} or {}.tar.gz with data/meta.mat and {} for the labels of {}",
                    root.string(), kDevkit, kDevkit, truth_name, kValTar);
  const MatFile mat(meta, "meta.mat");
  const auto ids = mat.integers("synsets", "ILSVRC2012_ID");
  const auto wnids = mat.strings("synsets", "WNID");
  const auto children = mat.integers("synsets", "num_children");
  std::map<int64_t, std::string> by_id;
  for (size_t i = 0; i < ids.size(); ++i)
    if (children.at(i) == 0) by_id[ids[i]] = wnids.at(i);
  std::vector<std::string> result;
  for (const std::string& line : parse_lines(truth, truth_name)) {
    const int64_t id = parse_integer(line, truth_name, "a class");
    if (!by_id.contains(id))
      throw FileError("{}: {} is no ILSVRC2012_ID of meta.mat", truth_name, id);
    result.push_back(by_id[id]);
  }
  return result;
}

FileList read_imagenet_tars(const fs::path& root, const ReaderOptions& options) {
  FileList list{root, kWnids};
  const auto train = std::make_shared<InputFile>(root / kTrainTar);
  const std::vector<TarMember> members = index_nested_tar(*train);
  for (const TarMember& member : members) {
    const std::string wnid = member.name.substr(0, member.name.find('/'));
    if (list.classes.empty() || list.classes.back() != wnid) list.classes.push_back(wnid);
  }
  std::sort(list.classes.begin(), list.classes.end());
  list.classes.erase(std::unique(list.classes.begin(), list.classes.end()), list.classes.end());
  const ClassRanks ranks(list.classes);
  const auto add = [&](const TarMember& member, const std::string& wnid, Part part) {
    list.entries.push_back(
        {member.name, ranks.at(wnid, list.root.string()), part, {}, 0, member.offset, member.size});
  };
  if (options.split == Split::train) {
    list.archives = {train};
    for (const TarMember& member : members)
      add(member, member.name.substr(0, member.name.find('/')), Part::train);
    return list;
  }
  const auto val = std::make_shared<InputFile>(root / kValTar);
  std::vector<TarMember> pictures = index_tar(*val);
  std::ranges::sort(pictures, {}, &TarMember::name);
  const std::vector<std::string> wnids = validation_wnids(root);
  if (wnids.size() != pictures.size())
    throw FileError("{}: {} labels for {} pictures of {}", root.string(), wnids.size(),
                    pictures.size(), kValTar);
  list.archives = {val};
  for (size_t i = 0; i < pictures.size(); ++i) add(pictures[i], wnids[i], Part::test);
  return list;
}

FileList read_imagenet_kaggle(const fs::path& root, const ReaderOptions& options) {
  FileList list{root, kWnids};
  for (const auto& [wnid, words] : read_pairs(root / "LOC_synset_mapping.txt"))
    list.classes.push_back(wnid);
  std::sort(list.classes.begin(), list.classes.end());
  const std::string inner = "ILSVRC/Data/CLS-LOC/";
  if (options.split == Split::train) {
    add_classes(list, inner + "train/", Part::train);
    return list;
  }
  const ClassRanks ranks(list.classes);
  const fs::path solution = root / "LOC_val_solution.csv";
  for (const std::string& line : read_lines(solution)) {
    // ImageId,PredictionString: NAME,WNID x y x y WNID x y x y ...
    const size_t comma = line.find(',');
    const std::string picture = line.substr(0, comma);
    if (picture == "ImageId") continue;
    if (comma == std::string::npos)
      throw FileError("{}: expected 'picture,class box', got '{:.80}'", solution.string(), line);
    const std::string rest = line.substr(comma + 1);
    list.entries.push_back({inner + "val/" + picture + ".JPEG",
                            ranks.at(rest.substr(0, rest.find(' ')), solution.string()),
                            Part::test});
  }
  std::ranges::sort(list.entries, {}, &FileEntry::path);
  return list;
}

}  // namespace

FileList read_imagenet(const Folder& folder, const ReaderOptions& options) {
  if (fs::exists(folder / kTrainTar)) return read_imagenet_tars(folder, options);
  if (fs::exists(folder / "LOC_synset_mapping.txt")) return read_imagenet_kaggle(folder, options);
  const fs::path train = folder / "train", val = folder / "val";
  if (!fs::is_directory(train) || !fs::is_directory(val))
    throw FileError(
        "{}: expected train and val with class folders, {} and {}, or Kaggle's "
        "LOC_synset_mapping.txt and ILSVRC",
        folder.string(), kTrainTar, kValTar);
  FileList list{folder, kWnids, list_folders(train)};
  if (list_folders(val) != list.classes)
    throw FileError(
        "{}: expected the class folders of train, got {} folders; pictures that lie there "
        "unsorted belong into them",
        val.string(), list_folders(val).size());
  add_classes(list, options.split == Split::train ? "train/" : "val/",
              options.split == Split::train ? Part::train : Part::test);
  return list;
}

}  // namespace facet
