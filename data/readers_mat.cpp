// Datasets that come with lists in MATLAB's files. All their labels and ids begin at 1.
#include <algorithm>

#include "data/listing.h"
#include "data/mat.h"
#include "data/readers.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

// Labels 1 ... classes as 0 ... classes - 1.
int64_t from_one(int64_t label, size_t classes, const fs::path& file) {
  if (label < 1 || label > static_cast<int64_t>(classes))
    throw FileError("{}: label {}, expected 1 to {}: labels begin at 1", file.string(), label,
                    classes);
  return label - 1;
}

void same_size(size_t a, size_t b, const fs::path& file) {
  if (a != b) throw FileError("{}: {} pictures but {} labels", file.string(), a, b);
}

}  // namespace

// Two layouts with different names of files: cars_train/, cars_test/ and devkit/; or car_ims/ and
// cars_annos.mat. Class names are no paths: one has a slash.
FileList read_cars(const Folder& folder, const ReaderOptions& options) {
  if (fs::exists(folder / "cars_annos.mat")) {
    const fs::path file = folder / "cars_annos.mat";
    const MatFile mat(file);
    FileList list{folder, "class_names of cars_annos.mat", mat.strings("class_names")};
    const auto paths = mat.strings("annotations", "relative_im_path");
    const auto labels = mat.integers("annotations", "class");
    const auto test = mat.integers("annotations", "test");
    for (size_t i = 0; i < paths.size(); ++i)
      list.entries.push_back({paths[i], from_one(labels.at(i), list.classes.size(), file),
                              test.at(i) == 0 ? Part::train : Part::test});
    return list;
  }
  const fs::path root =
      find_root(folder, {"stanford_cars"}, "devkit/cars_meta.mat", "Stanford Cars");
  FileList list{root, "class_names of cars_meta.mat",
                MatFile(root / "devkit/cars_meta.mat").strings("class_names")};
  const auto add = [&](const fs::path& file, const char* inner, Part part) {
    const MatFile mat(file);
    const auto names = mat.strings("annotations", "fname");
    const auto labels = mat.integers("annotations", "class");
    same_size(names.size(), labels.size(), file);
    for (size_t i = 0; i < names.size(); ++i)
      list.entries.push_back(
          {inner + names[i], from_one(labels[i], list.classes.size(), file), part});
  };
  add(root / "devkit/cars_train_annos.mat", "cars_train/", Part::train);
  // The test labels came later; torchvision wants them above devkit.
  const std::string with_labels = "cars_test_annos_withlabels.mat";
  for (const fs::path& file : {root / with_labels, root / "devkit" / with_labels})
    if (fs::exists(file)) {
      add(file, "cars_test/", Part::test);
      return list;
    }
  if (options.split == Split::test)
    throw FileError("{}: expected {}: cars_test_annos.mat has no labels", root.string(),
                    with_labels);
  return list;
}

FileList read_flowers102(const Folder& folder, const ReaderOptions&) {
  const fs::path root = find_root(folder, {"flowers-102"}, "imagelabels.mat", "Flowers-102");
  const fs::path label_file = root / "imagelabels.mat", id_file = root / "setid.mat";
  const auto labels = MatFile(label_file).integers("labels");
  FileList list{root, "labels of imagelabels.mat (no names)"};
  const int64_t classes = labels.empty() ? 0 : *std::max_element(labels.begin(), labels.end());
  for (int64_t c = 1; c <= std::min<int64_t>(classes, 1000); ++c)
    list.classes.push_back(fmt::format("{}", c));
  const MatFile ids(id_file);
  for (const auto& [part, variable] :
       {std::pair{Part::train, "trnid"}, {Part::val, "valid"}, {Part::test, "tstid"}})
    for (const int64_t id : ids.integers(variable)) {
      if (id < 1 || id > static_cast<int64_t>(labels.size()))
        throw FileError("{}: picture {}, expected 1 to {}: ids begin at 1", id_file.string(), id,
                        labels.size());
      list.entries.push_back(
          {fmt::format("jpg/image_{:05}.jpg", id),
           from_one(labels[static_cast<size_t>(id - 1)], list.classes.size(), label_file), part});
    }
  return list;
}

FileList read_dogs(const Folder& folder, const ReaderOptions&) {
  const fs::path root = find_root(folder, {"stanford_dogs"}, "train_list.mat", "Stanford Dogs");
  FileList list{root, "folders in byte order"};
  list.classes = list_folders(root / "Images");
  for (const auto& [part, name] :
       {std::pair{Part::train, "train_list.mat"}, {Part::test, "test_list.mat"}}) {
    const fs::path file = root / name;
    const MatFile mat(file);
    const auto paths = mat.strings("file_list");
    const auto labels = mat.integers("labels");
    same_size(paths.size(), labels.size(), file);
    for (size_t i = 0; i < paths.size(); ++i) {
      const int64_t label = from_one(labels[i], list.classes.size(), file);
      const std::string breed = paths[i].substr(0, paths[i].find('/'));
      if (breed != list.classes[static_cast<size_t>(label)])
        throw FileError("{}: {} has label {}, whose folder is {}", file.string(), paths[i],
                        labels[i], list.classes[static_cast<size_t>(label)]);
      list.entries.push_back({"Images/" + paths[i], label, part});
    }
  }
  return list;
}

}  // namespace facet
