// Readers of IDX and CIFAR files in their right and wrong forms; synthetic families; subsets.
#include "data/dataset.h"

#include <zlib.h>

#include <numeric>

#include "data/readers.h"
#include "data/synthetic.h"
#include "tests/trees.h"

namespace facet {
namespace {

namespace fs = std::filesystem;

using test::expect_parts;
using test::little;

class Files : public test::Tree {
 protected:
  void write_gz(const std::string& name, const std::string& bytes) {
    gzFile file = gzopen((root_ / name).c_str(), "wb");
    gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
    gzclose(file);
  }
  template <typename F>
  static std::string error(const F& f) {
    return test::error_of<FileError>(f);
  }
};

std::string number(uint32_t v) {
  return {static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8),
          static_cast<char>(v)};
}

std::string idx_images(uint32_t n, uint32_t side = 4) {
  std::string bytes = number(0x803) + number(n) + number(side) + number(side);
  for (uint32_t i = 0; i < n * side * side; ++i) bytes += static_cast<char>(i % 251);
  return bytes;
}

std::string idx_labels(uint32_t n, int classes = 10) {
  std::string bytes = number(0x801) + number(n);
  for (uint32_t i = 0; i < n; ++i) bytes += static_cast<char>(i % static_cast<uint32_t>(classes));
  return bytes;
}

using Idx = Files;

TEST_F(Idx, ReadsPlainGzippedAndDottedNames) {
  write("a/train-images-idx3-ubyte", idx_images(20));
  write("a/train-labels-idx1-ubyte", idx_labels(20));
  fs::create_directories(root_ / "b/FashionMNIST/raw");
  write_gz("b/FashionMNIST/raw/train-images.idx3-ubyte.gz", idx_images(20));
  write_gz("b/FashionMNIST/raw/train-labels.idx1-ubyte.gz", idx_labels(20));
  const DatasetPtr a = read_fashion_mnist(root_ / "a", Split::train);
  const DatasetPtr b = read_fashion_mnist(root_ / "b", Split::train);
  EXPECT_EQ(a->size(), 20);
  EXPECT_EQ(a->fingerprint(), b->fingerprint());
  const Image image = a->image(1);
  EXPECT_EQ(image.at(0, 1)[0], 17);
  EXPECT_EQ(image.at(0, 1)[2], 17);  // grey, shown as three equal channels
  EXPECT_EQ(a->labels().to_vector<int64_t>()[13], 3);
}

TEST_F(Idx, SeveralGzipMembers) {
  const std::string bytes = idx_labels(20);
  write_gz("one.gz", bytes.substr(0, 11));
  write_gz("two.gz", bytes.substr(11));
  write("labels.gz", read("one.gz") + read("two.gz"));
  EXPECT_EQ(read_idx(root_ / "labels.gz", 1).numel(), 20);
}

TEST_F(Idx, TruncatedIsNamed) {
  write("f", idx_images(20).substr(0, 100));
  expect_parts(error([&] { read_idx(root_ / "f", 3); }),
               {"/f:", "expected 320", "got 84", "truncated"});
  write("g", "\0\0");
  expect_parts(error([&] { read_idx(root_ / "g", 3); }), {"/g:", "header", "truncated"});
  write_gz("whole.gz", idx_images(20));
  const std::string packed = read("whole.gz");
  write("cut.gz", packed.substr(0, packed.size() / 2));
  expect_parts(error([&] { read_idx(root_ / "cut.gz", 3); }), {"cut.gz:"});
}

TEST_F(Idx, SwappedFilesAreNamed) {
  write("images", idx_labels(20));
  expect_parts(error([&] { read_idx(root_ / "images", 3); }),
               {"images:", "3 axes", "got 1", "swapped"});
}

TEST_F(Idx, OtherDamage) {
  write("text", "hello world, this is no IDX file");
  expect_parts(error([&] { read_idx(root_ / "text", 1); }), {"text:", "IDX"});
  write("floats", number(0xD01) + number(1) + "1234");
  expect_parts(error([&] { read_idx(root_ / "floats", 1); }), {"floats:", "type 0d"});
  write("longer", idx_labels(20) + "x");
  expect_parts(error([&] { read_idx(root_ / "longer", 1); }), {"longer:", "more data"});
  write("huge", number(0x803) + number(0xffffffff) + number(0xffff) + number(0xffff));
  expect_parts(error([&] { read_idx(root_ / "huge", 3); }), {"huge:", "claims"});
}

TEST_F(Idx, CountsAndLabelsMustAgree) {
  write("train-images-idx3-ubyte", idx_images(20));
  write("train-labels-idx1-ubyte", idx_labels(19));
  expect_parts(error([&] { read_fashion_mnist(root_, Split::train); }), {"19 labels", "20 images"});
  write("train-labels-idx1-ubyte", idx_labels(20, 11));
  expect_parts(error([&] { read_fashion_mnist(root_, Split::train); }), {"label 10", "sample 10"});
}

// Both name their files alike.
TEST_F(Idx, MnistIsNotFashionMnist) {
  const fs::path fashion = "/usr/share/datasets/fashion-mnist";
  if (!fs::exists(fashion)) GTEST_SKIP() << "dataset-fashion-mnist is not installed";
  for (const Split split : {Split::train, Split::test})
    expect_parts(error([&] { open_dataset("mnist:" + fashion.string(), split); }),
                 {"images-idx3", "expected mnist", "of fashion-mnist"});
  write("t10k-images-idx3-ubyte", idx_images(10000));
  fs::create_symlink(fashion / "t10k-labels-idx1-ubyte.gz", root_ / "t10k-labels-idx1-ubyte.gz");
  expect_parts(error([&] { open_dataset("mnist:" + root_.string(), Split::test); }),
               {"labels-idx1", "of fashion-mnist"});
  EXPECT_EQ(open_dataset("fashion-mnist:" + root_.string(), Split::test)->size(), 10000);
}

TEST_F(Idx, AllPicturesMustBeThere) {
  write("train-images-idx3-ubyte", idx_images(20));
  write("train-labels-idx1-ubyte", idx_labels(20));
  const std::string mnist = "mnist:" + root_.string();
  expect_parts(error([&] { open_dataset(mnist, Split::train); }), {"expected 60000", "got 20"});
  for (const char* check : {",check=off", ",check=20/5"})
    EXPECT_EQ(open_dataset(mnist + check, Split::train)->size(), 20);
}

TEST_F(Idx, MissingFolderAndFile) {
  expect_parts(error([&] { read_fashion_mnist(root_ / "none", Split::train); }),
               {"none", "no such folder"});
  expect_parts(error([&] { read_fashion_mnist(root_, Split::test); }), {"t10k-images-idx3-ubyte"});
}

class Cifar : public Files {
 protected:
  static std::string records(int64_t n, int label_bytes, int64_t classes) {
    std::string bytes;
    for (int64_t i = 0; i < n; ++i) {
      if (label_bytes == 2) bytes += static_cast<char>(i % 20);  // coarse first
      bytes += static_cast<char>(i % classes);
      bytes += std::string(1024, static_cast<char>(i % 7)) + std::string(1024, 100) +
               std::string(1024, 50);
    }
    return bytes;
  }
  static std::string names(int n) {
    std::string text;
    for (int i = 0; i < n; ++i) text += "class" + std::to_string(i) + "\n";
    return text;
  }
};

TEST_F(Cifar, TenReadsPlanesAsPixels) {
  write("cifar-10-batches-bin/batches.meta.txt", names(10) + "\n");
  write("cifar-10-batches-bin/test_batch.bin", records(10000, 1, 10));
  const DatasetPtr d = read_cifar10(root_, Split::test);
  EXPECT_EQ(d->size(), 10000);
  const Image image = d->image(5);
  EXPECT_EQ(image.at(31, 31)[0], 5);
  EXPECT_EQ(image.at(31, 31)[1], 100);
  EXPECT_EQ(image.at(31, 31)[2], 50);
  EXPECT_EQ(d->labels().to_vector<int64_t>()[13], 3);
}

TEST_F(Cifar, HundredTakesTheFineLabel) {
  write("fine_label_names.txt", names(100));
  write("test.bin", records(10000, 2, 100));
  const DatasetPtr d = read_cifar100(root_, Split::test);
  EXPECT_EQ(d->labels().to_vector<int64_t>()[57], 57);
}

// The Python version as Python 2 and NumPy pickled it, of the same pictures as records().
std::string text(const std::string& value) {
  return 'U' + std::string(1, static_cast<char>(value.size())) + value;
}
std::string python_names(const std::string& key, int n) {
  std::string bytes = "\x80\x02}q\x01(" + text(key) + "](";
  for (int i = 0; i < n; ++i) bytes += text("class" + std::to_string(i));
  return bytes + "eu.";
}
std::string python_batch(const std::string& key, int classes, bool fortran, int rows = 10000) {
  const auto byte = [](int row, int i) {
    return static_cast<char>(i < 1024 ? row % 7 : i < 2048 ? 100 : 50);
  };
  std::string labels, data;
  for (int r = 0; r < rows; ++r) labels += std::string("K") + static_cast<char>(r % classes);
  for (int k = 0; k < rows * 3072; ++k)
    data += fortran ? byte(k % rows, k / rows) : byte(k / 3072, k % 3072);
  using namespace std::string_literals;
  return "\x80\x02}q\x01("s + text("batch_label") + text("a batch") + text(key) + "](" + labels +
         "e" + text("data") + "cnumpy.core.multiarray\n_reconstruct\nq\x02" +
         "cnumpy\nndarray\nq\x03K\0\x85U\1b\x87R(K\1J"s + little(rows) + "M\0\x0c\x86"s +
         "cnumpy\ndtype\nU\2u1K\0K\1\x87R(K\3U\1|NNNJ"s + little(-1) + "J" + little(-1) + "K\0tb"s +
         (fortran ? '\x88' : '\x89') + 'T' + little(static_cast<uint32_t>(data.size())) + data +
         "tb" + text("filenames") + "](" + text("a.png") + "eu.";
}

TEST_F(Cifar, ThePythonVersionIsTheSame) {
  write("bin/batches.meta.txt", names(10));
  write("bin/test_batch.bin", records(10000, 1, 10));
  const std::string want = read_cifar10(root_ / "bin", Split::test)->fingerprint();
  write("cifar-10-batches-py/batches.meta", python_names("label_names", 10));
  for (const bool fortran : {false, true}) {
    write("cifar-10-batches-py/test_batch", python_batch("labels", 10, fortran));
    const DatasetPtr d = read_cifar10(root_, Split::test);
    EXPECT_EQ(d->fingerprint(), want);
    EXPECT_EQ(d->classes()[9], "class9");
  }
  write("cifar-100-python/meta", python_names("fine_label_names", 100));
  write("cifar-100-python/test", python_batch("fine_labels", 100, false));
  EXPECT_EQ(read_cifar100(root_, Split::test)->labels().to_vector<int64_t>()[157], 57);

  const auto refused = [&](const std::string& bytes, std::initializer_list<const char*> parts) {
    write("cifar-10-batches-py/test_batch", bytes);
    expect_parts(error([&] { read_cifar10(root_, Split::test); }), parts);
  };
  refused(python_batch("labels", 10, false, 9999), {"test_batch:", "10000", "got 9999 x 3072"});
  refused(python_batch("coarse_labels", 10, false), {"test_batch:", "labels", "and 0"});
  refused(python_batch("labels", 9, false), {"class 'class", "expected 1000"});
  refused(python_batch("labels", 11, false), {"label 10 of record 10"});
  refused(python_batch("labels", 10, false).substr(0, 5000), {"test_batch:", "ends too early"});
  refused("cos\nsystem\n", {"os.system"});
}

TEST_F(Cifar, WrongSizeAndWrongCounts) {
  write("batches.meta.txt", names(10));
  write("test_batch.bin", records(9999, 1, 10));
  expect_parts(error([&] { read_cifar10(root_, Split::test); }),
               {"test_batch.bin", "expected 30730000 bytes", "got 30726927"});
  write("test_batch.bin", records(10000, 1, 9));
  expect_parts(error([&] { read_cifar10(root_, Split::test); }), {"class 'class", "expected 1000"});
  expect_parts(error([&] { read_cifar10(root_ / "x", Split::test); }), {"no such folder"});
  expect_parts(error([&] { read_cifar100(root_, Split::test); }), {"fine_label_names.txt"});
}

TEST(Registry, UnknownNamesAreUsageErrors) {
  test::expect_parts(test::error_of<UsageError>([] { open_dataset("fashon-mnist", Split::train); }),
                     {"did you mean 'fashion-mnist'"});
  EXPECT_THROW(open_dataset("cifar10", Split::train), UsageError);
  EXPECT_THROW(open_dataset("shapes:trian=3", Split::train), UsageError);
  EXPECT_THROW(open_dataset("shapes:train=x", Split::train), UsageError);
}

class Synthetic : public ::testing::TestWithParam<const char*> {};

TEST_P(Synthetic, DependsOnSeedAndIndexAlone) {
  const std::string family = GetParam();
  const DatasetPtr small = open_dataset(family + ":train=20", Split::train);
  const DatasetPtr large = open_dataset(family + ":train=60", Split::train);
  for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(small->image(i).pixels, large->image(i).pixels);
  const DatasetPtr test = open_dataset(family + ":test=20", Split::test);
  const DatasetPtr other = open_dataset(family + ":train=20,seed=1", Split::train);
  EXPECT_NE(test->image(0).pixels, small->image(0).pixels);
  EXPECT_NE(other->image(0).pixels, small->image(0).pixels);
  EXPECT_EQ(small->image(0).height, 28);
  // Every picture holds something: far from one flat colour.
  for (int64_t i = 0; i < 60; ++i) {
    const Image image = large->image(i);
    const auto [low, high] = std::minmax_element(image.pixels.begin(), image.pixels.end());
    EXPECT_GT(*high - *low, 40) << family << " " << i;
  }
}

TEST_P(Synthetic, ClassesAreBalanced) {
  const DatasetPtr d = open_dataset(std::string(GetParam()) + ":train=400", Split::train);
  if (d->multi_label()) {
    const auto v = d->labels().to_vector<float>();
    const double share = std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
    EXPECT_GT(share, .15);
    EXPECT_LT(share, .5);
  } else {
    std::vector<int> count(static_cast<size_t>(d->num_classes()));
    for (const int64_t label : d->labels().to_vector<int64_t>())
      ++count[static_cast<size_t>(label)];
    for (const int c : count) EXPECT_EQ(c, 400 / d->num_classes());
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Synthetic,
                         ::testing::Values("shapes", "textures", "digits", "scene", "counts"));

TEST(Subset, BalancedAndDeterministic) {
  const DatasetPtr d = open_dataset("shapes:train=200", Split::train);
  const DatasetPtr a = balanced_subset(d, 5, 1), b = balanced_subset(d, 5, 1),
                   c = balanced_subset(d, 5, 2);
  EXPECT_EQ(a->size(), 50);
  EXPECT_EQ(a->fingerprint(), b->fingerprint());
  EXPECT_NE(a->fingerprint(), c->fingerprint());
  std::vector<int> count(10);
  for (const int64_t label : a->labels().to_vector<int64_t>()) ++count[static_cast<size_t>(label)];
  for (const int n : count) EXPECT_EQ(n, 5);
  EXPECT_THROW(balanced_subset(d, 21, 1), Error);
}

}  // namespace
}  // namespace facet
