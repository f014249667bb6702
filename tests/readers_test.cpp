// Readers of datasets on miniature trees in the official layouts: right, and wrong in every way
// that trees go wrong. A wrong count is an error unless `check` says what a miniature has.
#include "data/readers.h"

#include <functional>

#include "data/listing.h"
#include "tests/trees.h"

namespace facet {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::expect_parts;
using test::Mat;
using test::tar_member;
using test::Tree;

using Names = std::vector<std::string>;

using Write = std::function<void(const std::string&, const std::string&)>;

// ---- one miniature a dataset, with its pictures in the order of the lists
struct Miniature {
  const char* kind;
  const char* some_picture;  // a training picture
  std::vector<int64_t> train_labels, test_labels;
  void (*write)(const Write&);
  int64_t train() const { return std::ssize(train_labels); }
  int64_t test() const { return std::ssize(test_labels); }
  friend void PrintTo(const Miniature& m, std::ostream* out) { *out << m.kind; }
};

void write_pictures(const Write& write, const Names& names) {
  for (const std::string& name : names) write(name, test::tiny_picture());
}

std::string mat_of_cars(const Names& files, const std::vector<int>& classes) {
  std::vector<std::string> values;
  for (size_t i = 0; i < files.size(); ++i) {
    values.push_back(Mat::numbers({classes[i]}));
    values.push_back(Mat::text(files[i]));
  }
  return Mat::file({Mat::structs({"class", "fname"}, values, "annotations")});
}

std::string mat_of_dogs(const Names& files, const std::vector<int>& labels) {
  return Mat::file({Mat::texts(files, "file_list"), Mat::numbers(labels, "labels", false)});
}

void write_folder(const Write& w) {
  write_pictures(
      w, {"train/B/x.PNG", "train/B/deep/y.jpg", "train/a/1.jpeg", "val/B/z.gif", "val/a/z.bmp"});
}

void write_imagenet(const Write& w) {
  write_pictures(w,
                 {"train/n02/n02_1.JPEG", "train/n02/n02_10.JPEG", "train/n10/n10_2.JPEG",
                  "val/n02/ILSVRC2012_val_00000002.JPEG", "val/n10/ILSVRC2012_val_00000001.JPEG"});
}

// 80 % of 6 and of 5 for training; a text file and a folder that are none of the dataset
void write_caltech256(const Write& w) {
  for (int i = 1; i <= 6; ++i)
    w(fmt::format("256_ObjectCategories/001.ak47/001_{:04}.jpg", i), test::tiny_picture());
  for (int i = 1; i <= 5; ++i)
    w(fmt::format("256_ObjectCategories/257.clutter/257_{:04}.jpg", i), test::tiny_picture());
  w("256_ObjectCategories/257.clutter/RENAME2", "#!/bin/sh");
  w("256_ObjectCategories/257.clutter/greg/257_0001.jpg", test::tiny_picture());
}

void write_food101(const Write& w) {
  write_pictures(w, {"food-101/images/apple_pie/1005649.jpg", "food-101/images/apple_pie/2.jpg",
                     "food-101/images/waffles/3.jpg", "food-101/images/waffles/100.jpg"});
  w("food-101/meta/classes.txt", "apple_pie\nwaffles\n");
  w("food-101/meta/train.txt", "apple_pie/1005649\nwaffles/3\n");
  w("food-101/meta/test.txt", "apple_pie/2\nwaffles/100");
}

// ids with dashes, sparse classes, names with blanks
void write_nabirds(const Write& w) {
  write_pictures(w, {"nabirds/images/0817/0a1b.jpg", "nabirds/images/0295/ffff.jpg",
                     "nabirds/images/0817/cccc.jpg"});
  w("nabirds/images.txt", "0a-1b 0817/0a1b.jpg\nff-ff 0295/ffff.jpg\ncc-cc 0817/cccc.jpg\n");
  w("nabirds/image_class_labels.txt", "0a-1b 817\nff-ff 295\ncc-cc 817\n");
  w("nabirds/train_test_split.txt", "0a-1b 1\nff-ff 1\ncc-cc 0\n");
  w("nabirds/classes.txt", "0 Birds\n295 Common Eider (Adult male)\n817 Barrow's Goldeneye\n");
}

void write_cars(const Write& w) {
  write_pictures(w, {"cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg"});
  w("devkit/cars_meta.mat",
    Mat::file({Mat::texts({"AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"},
                          "class_names")}));
  w("devkit/cars_train_annos.mat", mat_of_cars({"00001.jpg", "00002.jpg"}, {2, 1}));
  w("cars_test_annos_withlabels.mat", mat_of_cars({"00001.jpg"}, {2}));
}

// a label with a slash, one with a blank; the validation part lies idle
void write_aircraft(const Write& w) {
  const std::string root = "fgvc-aircraft-2013b/data/";
  write_pictures(w, {root + "images/1025794.jpg", root + "images/0000002.jpg",
                     root + "images/0000003.jpg", root + "images/0000004.jpg"});
  w(root + "variants.txt", "DHC-8 100\nF/A-18\n");
  w(root + "images_variant_train.txt", "1025794 DHC-8 100\n0000002 F/A-18\n");
  w(root + "images_variant_val.txt", "0000003 DHC-8 100\n");
  w(root + "images_variant_test.txt", "0000004 F/A-18\n");
}

// more pictures in the folder than are listed
void write_pets(const Write& w) {
  const std::string root = "oxford-iiit-pet/";
  write_pictures(w, {root + "images/Abyssinian_100.jpg", root + "images/great_pyrenees_1.jpg",
                     root + "images/great_pyrenees_2.jpg", root + "images/stray.jpg"});
  w(root + "images/Abyssinian_100.mat", "stray");
  w(root + "annotations/trainval.txt",
    "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_100 1 1 1\ngreat_pyrenees_1 2 2 1\n");
  w(root + "annotations/test.txt", "great_pyrenees_2 2 2 1\n");
}

void write_flowers102(const Write& w) {
  for (int i = 1; i <= 6; ++i)
    w(fmt::format("flowers-102/jpg/image_{:05}.jpg", i), test::tiny_picture());
  w("flowers-102/imagelabels.mat", Mat::file({Mat::numbers({1, 1, 2, 2, 1, 2}, "labels")}));
  w("flowers-102/setid.mat", Mat::file({Mat::numbers({4, 1}, "trnid"), Mat::numbers({6}, "valid"),
                                        Mat::numbers({2, 5, 3}, "tstid")}));
}

void write_dogs(const Write& w) {
  write_pictures(w, {"Images/n02-Chihuahua/n02_1.jpg", "Images/n03-Collie/n03_1.jpg",
                     "Images/n03-Collie/n03_2.jpg"});
  w("train_list.mat", mat_of_dogs({"n02-Chihuahua/n02_1.jpg", "n03-Collie/n03_1.jpg"}, {1, 2}));
  w("test_list.mat", mat_of_dogs({"n03-Collie/n03_2.jpg"}, {2}));
}

void write_cub200(const Write& w) {
  const std::string root = "CUB_200_2011/";
  write_pictures(w, {root + "images/001.Albatross/a.jpg", root + "images/002.Wren/b.jpg",
                     root + "images/002.Wren/c.jpg"});
  w(root + "images.txt", "1 001.Albatross/a.jpg\n2 002.Wren/b.jpg\n3 002.Wren/c.jpg\n");
  w(root + "image_class_labels.txt", "1 1\n2 2\n3 2\n");
  w(root + "train_test_split.txt", "1 1\n2 1\n3 0\n");
  w(root + "classes.txt", "1 001.Albatross\n2 002.Wren\n");
}

void write_dtd(const Write& w) {
  write_pictures(w, {"dtd/images/banded/banded_0002.jpg", "dtd/images/banded/banded_0003.jpg",
                     "dtd/images/woven/woven_0001.jpg", "dtd/images/woven/woven_0002.jpg"});
  w("dtd/labels/train1.txt", "banded/banded_0002.jpg\nwoven/woven_0001.jpg\n");
  w("dtd/labels/val1.txt", "woven/woven_0002.jpg\n");
  w("dtd/labels/test1.txt", "banded/banded_0003.jpg\n");
}

void write_indoor67(const Write& w) {
  write_pictures(w,
                 {"Images/airport_inside/a b.JPG", "Images/bakery/1.jpg", "Images/bakery/2.jpg"});
  w("TrainImages.txt", "airport_inside/a b.JPG\nbakery/1.jpg");
  w("TestImages.txt", "bakery/2.jpg\n");
}

// nested classes; the partitions are a download of their own
void write_sun397(const Write& w) {
  write_pictures(w, {"SUN397/a/abbey/sun_a.jpg", "SUN397/a/apartment_building/outdoor/sun_b.jpg",
                     "SUN397/a/apartment_building/outdoor/sun_c.jpg"});
  w("SUN397/ClassName.txt", "/a/abbey\n/a/apartment_building/outdoor\n");
  w("Partitions/Training_01.txt", "/a/abbey/sun_a.jpg\n/a/apartment_building/outdoor/sun_b.jpg\n");
  w("Partitions/Testing_01.txt", "/a/apartment_building/outdoor/sun_c.jpg\n");
}

const std::vector<Miniature>& miniatures() {
  static const std::vector<Miniature> all = {
      {"folder", "train/B/x.PNG", {0, 0, 1}, {0, 1}, write_folder},
      {"imagenet", "train/n02/n02_1.JPEG", {0, 0, 1}, {0, 1}, write_imagenet},
      {"caltech256",
       "256_ObjectCategories/001.ak47/001_0001.jpg",
       {0, 0, 0, 0, 0, 1, 1, 1, 1},
       {0, 1},
       write_caltech256},
      {"food101", "food-101/images/apple_pie/1005649.jpg", {0, 1}, {0, 1}, write_food101},
      {"nabirds", "nabirds/images/0817/0a1b.jpg", {1, 0}, {1}, write_nabirds},
      {"cars", "cars_train/00001.jpg", {1, 0}, {1}, write_cars},
      {"aircraft", "fgvc-aircraft-2013b/data/images/1025794.jpg", {0, 1}, {1}, write_aircraft},
      {"pets", "oxford-iiit-pet/images/Abyssinian_100.jpg", {0, 1}, {1}, write_pets},
      {"flowers102", "flowers-102/jpg/image_00004.jpg", {1, 0}, {0, 0, 1}, write_flowers102},
      {"dogs", "Images/n02-Chihuahua/n02_1.jpg", {0, 1}, {1}, write_dogs},
      {"cub200", "CUB_200_2011/images/001.Albatross/a.jpg", {0, 1}, {1}, write_cub200},
      {"dtd", "dtd/images/banded/banded_0002.jpg", {0, 1}, {0}, write_dtd},
      {"indoor67", "Images/airport_inside/a b.JPG", {0, 1}, {1}, write_indoor67},
      {"sun397", "SUN397/a/abbey/sun_a.jpg", {0, 1}, {1}, write_sun397},
  };
  return all;
}

// Why a dataset is not opened.
template <typename E = FileError>
std::string refusal(const std::string& specification, Split split) {
  return error_of<E>([&] { open_dataset(specification, split); });
}

class Reader : public Tree {
 protected:
  std::string specification(const Miniature& m, const std::string& options) const {
    return fmt::format("{}:{}{}", m.kind, root_.string(), options);
  }
  std::string counted(const Miniature& m) const {
    return specification(m, fmt::format(",check={}/{}", m.train(), m.test()));
  }
  // That the training part is not read, whatever the number of its pictures, and why.
  void expect_refused(const std::string& kind, std::initializer_list<const char*> parts) const {
    expect_parts(refusal(kind + ":" + root_.string() + ",check=off", Split::train), parts);
  }
  Write writer() {
    return [this](const std::string& name, const std::string& bytes) { write(name, bytes); };
  }
};

class EachReader : public Reader, public ::testing::WithParamInterface<Miniature> {
 protected:
  void SetUp() override { GetParam().write(writer()); }
};

TEST_P(EachReader, ReadsTheRightTree) {
  const Miniature& m = GetParam();
  const DatasetPtr train = open_dataset(counted(m), Split::train);
  const DatasetPtr test = open_dataset(counted(m), Split::test);
  EXPECT_EQ(train->labels().to_vector<int64_t>(), m.train_labels);
  EXPECT_EQ(test->labels().to_vector<int64_t>(), m.test_labels);
  EXPECT_EQ(train->classes(), test->classes());
  EXPECT_NE(train->fingerprint(), test->fingerprint());
  EXPECT_EQ(train->fingerprint().size(), 64u);
  EXPECT_EQ(train->fingerprint(), open_dataset(counted(m), Split::train)->fingerprint());
  EXPECT_NE(train->describe().find("classes: "), std::string::npos);
  for (const DatasetPtr& part : {train, test})
    for (int64_t i = 0; i < part->size(); ++i) EXPECT_EQ(part->image(i).width, 3);
}

// A tree that is not whole is not taken for the dataset.
TEST_P(EachReader, RefusesWrongCounts) {
  const Miniature& m = GetParam();
  if (std::string(m.kind) != "folder")
    expect_parts(refusal(specification(m, ""), Split::test),
                 {"expected", "test pictures", "check=off"});
  EXPECT_EQ(open_dataset(specification(m, ",check=off"), Split::test)->size(), m.test());
  const std::string more = fmt::format(",check={}/{}", m.train(), m.test() + 1);
  expect_parts(refusal(specification(m, more), Split::test),
               {fmt::format("{} test pictures, got", m.test() + 1).c_str()});
  const std::string swapped = fmt::format(",check={}/{}", m.test(), m.train());
  if (m.train() != m.test() && std::string(m.kind) != "imagenet")
    expect_parts(refusal(specification(m, swapped), Split::train), {"swapped"});
}

TEST_P(EachReader, MissingFilesAreNamed) {
  const Miniature& m = GetParam();
  const std::string kind = m.kind;
  fs::remove(root_ / m.some_picture);
  const std::string error = refusal(counted(m), Split::train);
  // Where the folder is the list, the count tells.
  if (kind == "folder" || kind == "imagenet" || kind == "caltech256")
    expect_parts(error, {"got"});
  else
    expect_parts(error, {"missing", fs::path(m.some_picture).filename().c_str()});
}

TEST_P(EachReader, JunkIsPassedOver) {
  const Miniature& m = GetParam();
  const DatasetPtr clean = open_dataset(counted(m), Split::train);
  std::vector<fs::path> folders;
  for (const auto& entry : fs::recursive_directory_iterator(root_))
    if (entry.is_directory()) folders.push_back(fs::relative(entry.path(), root_));
  for (const fs::path& folder : folders)
    for (const char* junk : {"._a.jpg", "Thumbs.db", ".DS_Store", "__MACOSX/b.jpg"})
      write((folder / junk).string(), "junk");
  EXPECT_EQ(open_dataset(counted(m), Split::train)->fingerprint(), clean->fingerprint());
  EXPECT_EQ(open_dataset(counted(m), Split::test)->size(), m.test());
}

// CRLF, a byte order mark, and no end of the last line.
TEST_P(EachReader, ListsOfOtherSystems) {
  const Miniature& m = GetParam();
  const DatasetPtr clean = open_dataset(counted(m), Split::train);
  for (const auto& entry : fs::recursive_directory_iterator(root_)) {
    if (entry.path().extension() != ".txt") continue;
    std::string text = "\xef\xbb\xbf";
    for (const std::string& line : read_lines(entry.path())) text += line + "\r\n";
    text.resize(text.size() - 2);
    write(fs::relative(entry.path(), root_).string(), text);
  }
  EXPECT_EQ(open_dataset(counted(m), Split::train)->fingerprint(), clean->fingerprint());
  EXPECT_EQ(open_dataset(counted(m), Split::test)->size(), m.test());
}

TEST_P(EachReader, AnotherFolderIsRefused) {
  const Miniature& m = GetParam();
  fs::create_directories(root_ / "elsewhere/train");
  const std::string there = fmt::format("{}:{}", m.kind, (root_ / "elsewhere").string());
  expect_parts(refusal(there, Split::train), {"elsewhere", "expected"});
  expect_parts(refusal(there + "/none", Split::train), {"elsewhere/none"});
  refusal<UsageError>(m.kind, Split::train);
  expect_parts(refusal<UsageError>(specification(m, ",split=oficial"), Split::train),
               {"did you mean 'official'"});
}

INSTANTIATE_TEST_SUITE_P(Datasets, EachReader, ::testing::ValuesIn(miniatures()),
                         [](const auto& each) { return std::string(each.param.kind); });

const Miniature& miniature(const std::string& kind) {
  for (const Miniature& m : miniatures())
    if (kind == m.kind) return m;
  throw std::logic_error(kind);
}

// ---- wrong labels
TEST_F(Reader, LabelsThatBeginAtZero) {
  miniature("cub200").write(writer());
  write("CUB_200_2011/classes.txt", "0 a\n1 b\n");
  write("CUB_200_2011/image_class_labels.txt", "1 0\n2 2\n3 2\n");
  expect_refused("cub200", {"classes.txt", "2"});
  miniature("cars").write(writer());
  write("devkit/cars_train_annos.mat", mat_of_cars({"00001.jpg", "00002.jpg"}, {1, 0}));
  expect_refused("cars", {"cars_train_annos.mat", "label 0", "begin at 1"});
  miniature("flowers102").write(writer());
  write("flowers-102/setid.mat",
        Mat::file({Mat::numbers({0, 1}, "trnid"), Mat::numbers({6}, "valid"),
                   Mat::numbers({2, 5, 3}, "tstid")}));
  expect_refused("flowers102", {"setid.mat", "picture 0", "begin at 1"});
  miniature("dogs").write(writer());
  write("test_list.mat", mat_of_dogs({"n03-Collie/n03_2.jpg"}, {1}));
  expect_refused("dogs", {"test_list.mat", "n03-Collie", "label 1"});
  miniature("pets").write(writer());
  write("oxford-iiit-pet/annotations/test.txt", "great_pyrenees_2 1 2 1\n");
  expect_refused("pets", {"test.txt", "great_pyrenees_2", "Abyssinian"});
}

TEST_F(Reader, ClassesAndPicturesInBothSplits) {
  miniature("food101").write(writer());
  write("food-101/meta/test.txt", "apple_pie/1005649\nwaffles/100\n");
  expect_refused("food101", {"both splits", "1005649"});
  write("food-101/meta/test.txt", "apple_pie/2\nwafles/100\n");
  expect_refused("food101", {"test.txt", "'wafles'"});
  write("food-101/meta/test.txt", "apple_pie/2\n");
  write("food-101/meta/train.txt", "apple_pie/1005649\n");
  expect_refused("food101", {"1 of 2 classes", "waffles"});
  write("food-101/meta/classes.txt", std::string("apple_pie\nwaf\0fles\n", 19));
  expect_refused("food101", {"classes.txt", "NUL"});
}

// ---- splits
TEST_F(Reader, SplitsOfTheSameTree) {
  miniature("aircraft").write(writer());
  const std::string aircraft = "aircraft:" + root_.string() + ",check=off,split=";
  EXPECT_EQ(open_dataset(aircraft + "official", Split::train)->size(), 2);
  EXPECT_EQ(open_dataset(aircraft + "paper", Split::train)->size(), 2);
  EXPECT_EQ(open_dataset(aircraft + "trainval", Split::train)->size(), 3);
  EXPECT_EQ(open_dataset(aircraft + "trainval", Split::test)->size(), 1);
  // The miniature's pictures are too low for a banner.
  const DatasetPtr cropped = open_dataset(aircraft + "official,banner=crop", Split::train);
  const DatasetPtr kept = open_dataset(aircraft + "official,banner=keep", Split::train);
  EXPECT_NE(cropped->fingerprint(), kept->fingerprint());
  expect_parts(error_of<FileError>([&] { cropped->image(0); }), {"20 of them a banner"});

  miniature("dtd").write(writer());
  write("dtd/labels/train7.txt", "banded/banded_0003.jpg\nwoven/woven_0001.jpg\n");
  write("dtd/labels/val7.txt", "woven/woven_0002.jpg\n");
  write("dtd/labels/test7.txt", "banded/banded_0002.jpg\n");
  const std::string dtd = "dtd:" + root_.string() + ",check=off,partition=";
  EXPECT_NE(open_dataset(dtd + "7", Split::test)->fingerprint(),
            open_dataset(dtd + "1", Split::test)->fingerprint());
  refusal<UsageError>(dtd + "11", Split::test);

  miniature("caltech256").write(writer());
  const std::string official = "caltech256:" + root_.string() + ",split=official";
  expect_parts(refusal<UsageError>(official, Split::train), {"no official split", "paper"});
}

// The paper's 80 and 20 %: the same on every machine, and whatever the lists say.
TEST_F(Reader, TheRuleOfThePaper) {
  Names names;
  for (int i = 0; i < 10; ++i) names.push_back(fmt::format("food-101/images/pie/{}.jpg", i));
  pictures(names);
  write("food-101/meta/classes.txt", "pie\n");
  std::string train, test;
  for (int i = 0; i < 10; ++i) (i < 5 ? train : test) += fmt::format("pie/{}\n", i);
  write("food-101/meta/train.txt", train);
  write("food-101/meta/test.txt", test);
  const std::string food = "food101:" + root_.string() + ",check=8/2,split=paper";
  const DatasetPtr tested = open_dataset(food, Split::test);
  const std::string manifest = dynamic_cast<const FileListDataset&>(*tested).manifest();
  EXPECT_EQ(manifest, "images/pie/2.jpg\t0\ttest\nimages/pie/9.jpg\t0\ttest\n");
  write("food-101/meta/train.txt", test);
  write("food-101/meta/test.txt", train);
  EXPECT_EQ(open_dataset(food, Split::test)->fingerprint(), tested->fingerprint());
}

// What Table 2 of the paper counts.
TEST(Split80, CountsAreThoseOfTable2) {
  // 101 classes of 1,000 pictures
  FileList food;
  for (int c = 0; c < 101; ++c)
    for (int i = 0; i < 1000; ++i) food.entries.push_back({std::to_string(i), c});
  split_80_20(food);
  const auto tested = std::count_if(food.entries.begin(), food.entries.end(),
                                    [](const FileEntry& e) { return e.part == Part::test; });
  EXPECT_EQ(tested, 20'200);
}

// ---- class folders
TEST_F(Reader, OrdersOfClassFolders) {
  pictures({"train/10/a.png", "train/2/a.png", "train/b/a.png", "train/C/a.png", "val/C/b.png",
            "val/10/b.png"});
  const std::string folder = "folder:" + root_.string();
  const DatasetPtr bytes = open_dataset(folder, Split::train);
  EXPECT_EQ(bytes->classes(), (Names{"10", "2", "C", "b"}));
  EXPECT_NE(bytes->describe().find("torchvision"), std::string::npos);
  const DatasetPtr natural = open_dataset(folder + ",order=natural", Split::train);
  EXPECT_EQ(natural->classes(), (Names{"2", "10", "b", "C"}));
  EXPECT_NE(natural->describe().find("timm"), std::string::npos);
  EXPECT_EQ(open_dataset(folder, Split::test)->labels().to_vector<int64_t>(),
            (std::vector<int64_t>{0, 2}));
  pictures({"val/new/b.png"});
  expect_parts(refusal(folder, Split::test), {"'new'"});
  fs::create_directories(root_ / "train/new");
  expect_parts(refusal(folder, Split::train), {"1 of 5 classes", "new"});
}

TEST_F(Reader, AFolderWithoutPartsIsSplit) {
  for (int i = 0; i < 5; ++i) pictures({fmt::format("a/{}.png", i), fmt::format("b/{}.png", i)});
  fs::create_directory_symlink(root_ / "a", root_ / "c");
  const std::string folder = "folder:" + root_.string();
  EXPECT_EQ(open_dataset(folder, Split::train)->size(), 12);
  EXPECT_EQ(open_dataset(folder, Split::test)->size(), 3);
  fs::create_directory_symlink(root_, root_ / "b/loop");
  EXPECT_GT(open_dataset(folder, Split::train)->size(), 12);  // strange, but it ends
}

TEST(NaturalOrder, IsTimms) {
  EXPECT_TRUE(natural_less("a2", "A10"));
  EXPECT_FALSE(natural_less("a10", "a2"));
  EXPECT_TRUE(natural_less("a", "a1"));
  EXPECT_TRUE(natural_less("a01b", "a1c"));
  EXPECT_FALSE(natural_less("x", "x"));
}

// ---- ImageNet's other layouts
using ImageNet = Reader;

// ids are no ranks: 1 is n10, 2 is n02; 3 has children
std::string imagenet_meta() {
  std::vector<std::string> values;
  for (const auto& [id, wnid, children] : {std::tuple{1, "n10", 0}, {2, "n02", 0}, {3, "n00", 2}}) {
    values.push_back(Mat::numbers({id}));
    values.push_back(Mat::text(wnid));
    values.push_back(Mat::numbers({children}));
  }
  return Mat::file({Mat::structs({"ILSVRC2012_ID", "WNID", "num_children"}, values, "synsets")});
}

std::string train_tar() {
  const std::string n10 = tar_member("n10_2.JPEG", test::tiny_picture(30)) + test::tar_end();
  const std::string n02 = tar_member("n02_1.JPEG", test::tiny_picture(10)) +
                          tar_member("n02_10.JPEG", test::tiny_picture(20)) + test::tar_end();
  return tar_member("n10.tar", n10) + tar_member("n02.tar", n02) + test::tar_end();
}

TEST_F(ImageNet, TarFilesAreReadInPlace) {
  write("ILSVRC2012_img_train.tar", train_tar());
  write("ILSVRC2012_img_val.tar",
        tar_member("ILSVRC2012_val_00000002.JPEG", test::tiny_picture(2)) +
            tar_member("ILSVRC2012_val_00000001.JPEG", test::tiny_picture(1)) + test::tar_end());
  const std::string truth = "data/ILSVRC2012_validation_ground_truth.txt";
  write("ILSVRC2012_devkit_t12/data/meta.mat", imagenet_meta());
  write("ILSVRC2012_devkit_t12/" + truth, "1\n2\n");
  const std::string imagenet = "imagenet:" + root_.string() + ",check=3/2";
  for (int round = 0; round < 2; ++round) {  // the second time from the index
    const DatasetPtr train = open_dataset(imagenet, Split::train);
    EXPECT_EQ(train->classes(), (Names{"n02", "n10"}));
    EXPECT_EQ(train->labels().to_vector<int64_t>(), (std::vector<int64_t>{1, 0, 0}));
    EXPECT_EQ(train->image(0).at(0, 0)[0], 30);
    EXPECT_EQ(train->image(2).at(0, 0)[0], 20);
    EXPECT_TRUE(fs::exists(root_ / "ILSVRC2012_img_train.tar.facet-index"));
  }
  const DatasetPtr val = open_dataset(imagenet, Split::test);
  EXPECT_EQ(val->image(0).at(0, 0)[0], 1);  // by name, whatever the archive's order
  EXPECT_EQ(val->labels().to_vector<int64_t>(), (std::vector<int64_t>{1, 0}));

  // An index that was tampered with is made again.
  std::string index = read("ILSVRC2012_img_train.tar.facet-index");
  index[index.size() - 3] ^= 1;
  write("ILSVRC2012_img_train.tar.facet-index", index);
  EXPECT_EQ(open_dataset(imagenet, Split::train)->image(2).at(0, 0)[0], 20);

  // The development kit as it is downloaded.
  fs::remove_all(root_ / "ILSVRC2012_devkit_t12");
  expect_parts(refusal(imagenet, Split::test), {"ILSVRC2012_devkit_t12"});
  write("ILSVRC2012_devkit_t12.tar.gz",
        tar_member("ILSVRC2012_devkit_t12/data/meta.mat", imagenet_meta()) +
            tar_member("ILSVRC2012_devkit_t12/" + truth, "1\n2\n") + test::tar_end());
  EXPECT_EQ(open_dataset(imagenet, Split::test)->fingerprint(), val->fingerprint());
}

TEST_F(ImageNet, KagglesLayout) {
  const std::string inner = "ILSVRC/Data/CLS-LOC/";
  pictures({inner + "train/n02/n02_1.JPEG", inner + "train/n10/n10_2.JPEG",
            inner + "val/ILSVRC2012_val_00000001.JPEG",
            inner + "val/ILSVRC2012_val_00000002.JPEG"});
  write("LOC_synset_mapping.txt", "n02 tench, Tinca tinca\nn10 goldfish\n");
  write("LOC_val_solution.csv",
        "ImageId,PredictionString\nILSVRC2012_val_00000002,n02 1 2 3 4 n02 5 6 7 8 \n"
        "ILSVRC2012_val_00000001,n10 85 1 499 272 \n");
  const std::string imagenet = "imagenet:" + root_.string() + ",check=2/2";
  EXPECT_EQ(open_dataset(imagenet, Split::train)->size(), 2);
  const DatasetPtr val = open_dataset(imagenet, Split::test);
  EXPECT_EQ(val->labels().to_vector<int64_t>(), (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(val->image(0).at(0, 0)[0], 3);
}

TEST_F(ImageNet, AFlatValidationFolderIsExplained) {
  pictures({"train/n02/a.JPEG", "val/ILSVRC2012_val_00000001.JPEG"});
  expect_parts(refusal("imagenet:" + root_.string() + ",check=off", Split::test),
               {"val", "class folders"});
}

// ---- Stanford Cars' other layout
TEST_F(Reader, CarsInOneFile) {
  pictures({"car_ims/000001.jpg", "car_ims/000002.jpg", "car_ims/000003.jpg"});
  std::vector<std::string> values;
  for (const auto& [file, label, is_test] : {std::tuple{"car_ims/000001.jpg", 2, 0},
                                             {"car_ims/000002.jpg", 1, 0},
                                             {"car_ims/000003.jpg", 2, 1}}) {
    values.push_back(Mat::text(file));
    values.push_back(Mat::numbers({label}));
    values.push_back(Mat::numbers({is_test}));
  }
  write("cars_annos.mat",
        Mat::file({Mat::structs({"relative_im_path", "class", "test"}, values, "annotations"),
                   Mat::texts({"a", "Ram C/V"}, "class_names")}));
  const DatasetPtr train = open_dataset("cars:" + root_.string() + ",check=2/1", Split::train);
  EXPECT_EQ(train->labels().to_vector<int64_t>(), (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(train->classes()[1], "Ram C/V");
}

TEST_F(Reader, CarsWithoutTestLabels) {
  miniature("cars").write(writer());
  fs::rename(root_ / "cars_test_annos_withlabels.mat",
             root_ / "devkit/cars_test_annos_withlabels.mat");
  const std::string cars = "cars:" + root_.string() + ",check=off";
  EXPECT_EQ(open_dataset(cars, Split::test)->size(), 1);
  fs::remove(root_ / "devkit/cars_test_annos_withlabels.mat");
  EXPECT_EQ(open_dataset(cars, Split::train)->size(), 2);
  expect_parts(refusal(cars, Split::test), {"withlabels"});
}

// ---- MS-COCO
class Coco : public Reader {
 protected:
  void SetUp() override {
    pictures({"coco/train2017/9.jpg", "coco/train2017/25.jpg", "coco/train2017/30.jpg",
              "coco/val2017/7.jpg"});
    write("coco/annotations/instances_train2017.json", kTrain);
    write("coco/annotations/instances_val2017.json", kVal);
  }
  std::string coco(const std::string& options = ",check=3/1") const {
    return "coco2017:" + root_.string() + options;
  }

  // Pictures out of order, annotations before pictures, a crowd's outline as RLE and an id of 9e11,
  // category ids with gaps.
  static constexpr const char* kTrain = R"({"info": {"year": 2017, "id": 4},
    "annotations": [
      {"segmentation": [[1.5, 2, 3, 4]], "image_id": 25, "category_id": 90, "id": 1, "iscrowd": 0},
      {"segmentation": {"counts": [1, 2], "size": [3, 4], "id": 5}, "iscrowd": 1, "image_id": 9,
       "category_id": 3, "id": 900100000000}],
    "images": [{"id": 25, "file_name": "25.jpg", "height": 2},
               {"id": 9, "file_name": "9.jpg"}, {"id": 30, "file_name": "30.jpg"}],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "voiture \u00e9t\u00e9"}]})";
  static constexpr const char* kVal = R"({"images": [{"id": 7, "file_name": "7.jpg"}],
    "annotations": [], "categories": [{"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}]})";
};

TEST_F(Coco, LabelsAreSetsOfCategories) {
  const DatasetPtr train = open_dataset(coco(), Split::train);
  EXPECT_TRUE(train->multi_label());
  EXPECT_EQ(train->classes(), (Names{"voiture \xc3\xa9t\xc3\xa9", "toothbrush"}));
  // by picture id: 9, 25, 30
  EXPECT_EQ(train->labels().to_vector<float>(), (std::vector<float>{1, 0, 0, 1, 0, 0}));
  EXPECT_EQ(open_dataset(coco(), Split::test)->size(), 1);
  EXPECT_EQ(open_dataset(coco(",check=2/0,split=paper"), Split::train)->size(), 2);
  expect_parts(refusal(coco(",check=3/1,crowd=off"), Split::train), {"1 of 2 classes"});
  expect_parts(refusal(coco(""), Split::train), {"118287"});
}

TEST_F(Coco, DamagedAnnotationsAreNamed) {
  const auto problem = [&](const std::string& json) {
    return error_of<FileError>([&] { parse_coco(json, "some.json", "", Part::train, true); });
  };
  expect_parts(problem(std::string(kTrain).substr(0, 300)),
               {"some.json", "damaged JSON at byte 301"});
  expect_parts(problem("{}"), {"no categories"});
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += '[';
  expect_parts(problem(deep), {"nested"});
  expect_parts(problem(R"({"images": [{"id": 1}]})"), {"without id and file_name"});
  expect_parts(problem(R"({"annotations": [{"image_id": 1, "category_id": 2}],
                           "images": [{"id": 2, "file_name": "a"}],
                           "categories": [{"id": 2, "name": "b"}]})"),
               {"picture 1"});
  expect_parts(problem(R"({"annotations": [{"image_id": 2, "category_id": 3}],
                           "images": [{"id": 2, "file_name": "a"}],
                           "categories": [{"id": 2, "name": "b"}]})"),
               {"category 3"});
}

}  // namespace
}  // namespace facet
