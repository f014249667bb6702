// Samples that cannot be decoded, and the cache of pictures.
#include "data/cache.h"

#include <csignal>

#include "data/loader.h"
#include "data/png.h"
#include "data/verify.h"
#include "tests/broken.h"
#include "tests/pictures.h"
#include "tests/trees.h"

namespace facet {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::expect_parts;

constexpr int kSize = 8;

class Pictures : public test::Tree {
 protected:
  // Two classes of ten pictures in train/, of which train/b/3.png is cut short.
  void SetUp() override {
    for (int i = 0; i < 10; ++i)
      for (const std::string folder : {"train/a", "train/b", "val/a", "val/b"})
        write(fmt::format("{}/{}.png", folder, i),
              encode_png(test::scrambled(16 + i, 20 + (folder.back() == 'b'))));
    broken_ = read("train/b/3.png");
    write("train/b/3.png", broken_.substr(0, broken_.size() / 2));
  }
  DatasetPtr open(Split split, const std::string& options = "") const {
    return open_dataset("folder:" + root_.string() + options, split);
  }
  static LoaderOptions options(OnBadSample policy, int workers = 0) {
    LoaderOptions o;
    o.views = {small_pipeline(kSize, kHalfNormalization, .9, 1, Filter::bilinear, false)};
    o.batch_size = 5;
    o.seed = 4;
    o.workers = workers;
    o.on_bad_sample = policy;
    return o;
  }

  static constexpr int64_t kBad = 13;
  std::string broken_;
};

struct Seen {
  std::vector<int64_t> indices, labels, bad;
  std::vector<float> pixels;
  bool operator==(const Seen&) const = default;
};

Seen collect(DataLoader& loader, int64_t epoch, int64_t first = 0) {
  Seen seen;
  loader.start(epoch, first);
  while (const auto batch = loader.next()) {
    const auto put = [](std::vector<int64_t>& to, const Tensor& from) {
      for (const int64_t v : from.to_vector<int64_t>()) to.push_back(v);
    };
    put(seen.indices, batch->indices);
    put(seen.labels, batch->labels);
    for (const BadSample& bad : batch->bad) seen.bad.push_back(bad.index);
    for (const float v : batch->views[0].to_vector<float>()) seen.pixels.push_back(v);
  }
  return seen;
}

TEST_F(Pictures, FailNamesFileClassSizeAndHash) {
  for (const int workers : {0, 2}) {
    DataLoader loader(open(Split::train), options(OnBadSample::fail, workers));
    expect_parts(error_of<Error>([&] { collect(loader, 0); }),
                 {"sample 13", "train/b/3.png", "class 'b'", "PNG", "bytes", "sha256"});
  }
}

TEST_F(Pictures, SkipAndSubstituteKeepTheBatchAndRepeat) {
  for (const OnBadSample policy : {OnBadSample::skip, OnBadSample::substitute}) {
    DataLoader loader(open(Split::train), options(policy));
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      const Seen want = collect(loader, epoch);
      ASSERT_EQ(want.indices.size(), 20u);
      EXPECT_EQ(want.bad, (std::vector<int64_t>{kBad}));
      EXPECT_EQ(std::count(want.indices.begin(), want.indices.end(), kBad), 0);
      // In place of the bad one stands another, with its own label.
      for (size_t i = 0; i < 20; ++i) EXPECT_EQ(want.labels[i], want.indices[i] < 10 ? 0 : 1);
      if (policy == OnBadSample::substitute) {
        EXPECT_EQ(std::count(want.labels.begin(), want.labels.end(), 1), 10);
      }
      for (const int workers : {1, 4}) {
        DataLoader other(open(Split::train), options(policy, workers));
        EXPECT_EQ(collect(other, epoch), want) << workers << " workers";
      }
      const Seen rest = collect(loader, epoch, 2);
      EXPECT_EQ(rest.indices, std::vector<int64_t>(want.indices.begin() + 10, want.indices.end()));
    }
  }
}

TEST_F(Pictures, TheOthersAreAsEver) {
  DataLoader loader(open(Split::train), options(OnBadSample::skip));
  const Seen with_bad = collect(loader, 1);
  write("train/b/3.png", broken_);
  DataLoader whole(open(Split::train), options(OnBadSample::skip));
  const Seen all = collect(whole, 1);
  EXPECT_TRUE(all.bad.empty());
  constexpr int64_t kPixels = kSize * kSize * 3;
  for (size_t i = 0; i < 20; ++i) {
    if (all.indices[i] == kBad) continue;
    EXPECT_EQ(with_bad.indices[i], all.indices[i]);
    const auto at = static_cast<std::ptrdiff_t>(i) * kPixels;
    EXPECT_TRUE(std::equal(all.pixels.begin() + at, all.pixels.begin() + at + kPixels,
                           with_bad.pixels.begin() + at));
  }
}

TEST_F(Pictures, EvaluationLeavesThemOut) {
  LoaderOptions o = options(OnBadSample::omit);
  o.shuffle = o.drop_last = false;
  DataLoader loader(open(Split::train), o);
  const Seen seen = collect(loader, 0);
  EXPECT_EQ(seen.indices.size(), 19u);
  EXPECT_EQ(seen.pixels.size(), 19u * kSize * kSize * 3);
  EXPECT_EQ(seen.bad, (std::vector<int64_t>{kBad}));
}

TEST_F(Pictures, ViewsLeftToADeviceAreTheSame) {
  LoaderOptions o = options(OnBadSample::skip);
  DataLoader here(open(Split::train), o);
  o.views_on = Device{};
  DataLoader there(open(Split::train), o);
  here.start(2);
  there.start(2);
  while (const auto batch = here.next()) {
    const auto planned = there.next();
    EXPECT_TRUE(planned->views.empty());
    EXPECT_EQ(planned->to(Device{}).views[0].to_vector<float>(),
              batch->views[0].to_vector<float>());
  }
}

// A decoder that crashes costs its sample, not the program.
TEST(Verify, ChildrenMayCrash) {
  test::BrokenDataset dataset(open_dataset("shapes:train=12,size=8", Split::train));
  dataset.before = [](int64_t index) {
    if (index == 3) std::raise(SIGKILL);
    if (index == 4) throw FileError("damaged");
    if (index == 11) ::_exit(7);
  };
  std::vector<int64_t> seen;
  std::map<int64_t, std::string> errors;
  check_in_children(
      dataset, 1, 12,
      [&](int64_t i, const SampleCheck& check) {
        seen.push_back(i);
        if (!check.error.empty()) errors[i] = check.error;
      },
      [] { return false; });
  EXPECT_EQ(seen, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  ASSERT_EQ(errors.size(), 3u);
  expect_parts(errors[3], {"shapes sample 3", "Killed"});
  EXPECT_EQ(errors[4], "damaged");
  expect_parts(errors[11], {"sample 11", "exit code 7"});
}

// ---- cache
class Cache : public Pictures {
 protected:
  void SetUp() override {
    Pictures::SetUp();
    write("train/b/3.png", broken_);
    for (const Split split : {Split::train, Split::test})
      write_cache(*open(split), kShorter, cache_file(root_ / "cache", split), [](int64_t) {});
  }
  std::string option() const { return ",cache=" + (root_ / "cache").string(); }
  static constexpr int kShorter = 18;
};

TEST_F(Cache, HoldsThePicturesMadeSmaller) {
  const DatasetPtr files = open(Split::train), cached = open(Split::train, option());
  EXPECT_EQ(cached->fingerprint(), files->fingerprint());
  EXPECT_EQ(cached->labels().to_vector<int64_t>(), files->labels().to_vector<int64_t>());
  EXPECT_NE(cached->describe().find("cache"), std::string::npos);
  for (int64_t i = 0; i < files->size(); ++i) {
    const Image whole = files->image(i), small = cached->image(i);
    if (std::min(whole.height, whole.width) <= kShorter) {
      EXPECT_EQ(small.pixels, whole.pixels);
      continue;
    }
    EXPECT_EQ(std::min(small.height, small.width), kShorter);
    EXPECT_EQ(small.pixels, resize(whole, small.height, small.width, Filter::bilinear).pixels);
  }
}

TEST_F(Cache, TheLoaderReadsItInPlace) {
  DataLoader loader(open(Split::test, option()), options(OnBadSample::fail, 2));
  const Seen seen = collect(loader, 0);
  const DatasetPtr cached = open(Split::test, option());
  const Pipeline view = options(OnBadSample::fail).views[0];
  std::vector<float> want(kSize * kSize * 3);
  const auto index = static_cast<uint64_t>(seen.indices[7]);
  const RandomSequence random(random_key(4, RandomPurpose::augment).child(0).child(index).child(0));
  normalize(view.view(cached->image(seen.indices[7]), random), view.scale(), want.data());
  EXPECT_TRUE(std::equal(want.begin(), want.end(),
                         seen.pixels.begin() + 7 * static_cast<std::ptrdiff_t>(want.size())));
}

TEST_F(Cache, DamageIsNoticed) {
  const std::string good = read("cache/train.pictures");
  const auto damaged = [&](size_t at) {
    std::string bytes = good;
    bytes[at] ^= 4;
    write("cache/train.pictures", bytes);
  };
  damaged(good.size() - 10);  // the trailer
  expect_parts(error_of<FileError>([&] { open(Split::train, option()); }),
               {"train.pictures", "damaged", "facet dataset cache"});
  damaged(good.size() - 152 - 30);  // the index
  expect_parts(error_of<FileError>([&] { open(Split::train, option()); }), {"index"});
  damaged(500);  // a pixel of the first picture: the others are well
  const DatasetPtr cached = open(Split::train, option());
  cached->image(5);
  expect_parts(error_of<FileError>([&] { cached->image(0); }), {"picture 0 is damaged"});
  write("cache/train.pictures", good.substr(0, good.size() - 1));
  error_of<FileError>([&] { open(Split::train, option()); });
  write("cache/train.pictures", "");
  error_of<FileError>([&] { open(Split::train, option()); });
}

// A picture that could not be decoded is as bad from the cache as it was in its file.
TEST_F(Cache, KeepsWhatIsBad) {
  write("train/b/3.png", broken_.substr(0, broken_.size() / 2));
  const fs::path file = root_ / "cache/train.pictures";
  const std::string want = error_of<FileError>([&] { open(Split::train)->image(kBad); });
  error_of<FileError>([&] { write_cache(*open(Split::train), kShorter, file, [](int64_t) {}); });
  std::vector<std::string> bad;
  write_cache(
      *open(Split::train), kShorter, file, [](int64_t) {},
      [&](const std::string& error) { bad.push_back(error); });
  EXPECT_EQ(bad, std::vector<std::string>{want});
  EXPECT_EQ(error_of<FileError>([&] { open(Split::train, option())->image(kBad); }), want);
  DataLoader files(open(Split::train), options(OnBadSample::skip)),
      cached(open(Split::train, option()), options(OnBadSample::skip));
  EXPECT_EQ(collect(cached, 1).indices, collect(files, 1).indices);
}

TEST_F(Cache, OfAnotherDatasetIsRefused) {
  fs::rename(root_ / "train/b/9.png", root_ / "train/b/99.png");
  expect_parts(error_of<FileError>([&] { open(Split::train, option()); }), {"another dataset"});
  fs::copy(root_ / "cache/train.pictures", root_ / "cache/test.pictures",
           fs::copy_options::overwrite_existing);
  expect_parts(error_of<FileError>([&] { open(Split::test, option()); }), {"another dataset"});
  // Datasets in memory have caches, too.
  const std::string shapes = "shapes:train=20,test=10";
  write_cache(*open_dataset(shapes, Split::train), 16, root_ / "c/train.pictures", [](int64_t) {});
  EXPECT_EQ(
      open_dataset(shapes + ",cache=" + (root_ / "c").string(), Split::train)->image(3).height, 16);
}

}  // namespace
}  // namespace facet
