// The loader: the same batches for any number of workers and from any starting point.
#include "data/loader.h"

#include <gtest/gtest.h>

#include <chrono>
#include <set>

#include "tests/broken.h"
#include "tests/folder.h"

namespace facet {
namespace {

constexpr int kSize = 12;

// Sleeps a little, differently for every sample, so that workers overtake each other.
DatasetPtr slow(const std::string& specification, int64_t broken = -1) {
  auto dataset = std::make_shared<test::BrokenDataset>(open_dataset(specification, Split::train));
  dataset->before = [broken](int64_t index) {
    std::this_thread::sleep_for(std::chrono::microseconds(index * 7919 % 300));
    if (index == broken) throw Error("cannot be decoded");
  };
  return dataset;
}

LoaderOptions options(int workers) {
  LoaderOptions o;
  o.views = {small_pipeline(kSize, kHalfNormalization, .08, 1, Filter::bicubic, false),
             small_pipeline(kSize, kHalfNormalization, .08, 1, Filter::bicubic, false)};
  o.batch_size = 8;
  o.seed = 5;
  o.workers = workers;
  return o;
}

DatasetPtr pictures() {
  static const DatasetPtr d = slow("shapes:train=60");
  return d;
}

struct Seen {
  std::vector<int64_t> indices;
  std::vector<float> pixels;
  bool operator==(const Seen&) const = default;
};

Seen collect(DataLoader& loader, int64_t epoch, int64_t first) {
  Seen seen;
  loader.start(epoch, first);
  while (const auto batch = loader.next()) {
    for (const int64_t i : batch->indices.to_vector<int64_t>()) seen.indices.push_back(i);
    for (const Tensor& view : batch->views)
      for (const float v : view.to_vector<float>()) seen.pixels.push_back(v);
    EXPECT_EQ(batch->labels.dim(0), batch->views[0].dim(0));
  }
  return seen;
}

TEST(Loader, SameBatchesForAnyNumberOfWorkers) {
  DataLoader inline_loader(pictures(), options(0));
  const Seen want = collect(inline_loader, 2, 0);
  EXPECT_EQ(want.indices.size(), 56u);  // the last batch is not full
  for (const int workers : {1, 2, 4}) {
    DataLoader loader(pictures(), options(workers));
    EXPECT_EQ(collect(loader, 2, 0), want) << workers << " workers";
  }
}

TEST(Loader, StartsInTheMiddle) {
  DataLoader loader(pictures(), options(2));
  const Seen whole = collect(loader, 1, 0), rest = collect(loader, 1, 3);
  EXPECT_EQ(rest.indices, std::vector<int64_t>(whole.indices.begin() + 24, whole.indices.end()));
  const size_t skipped = 3 * 8 * 2 * kSize * kSize * 3;
  EXPECT_EQ(rest.pixels,
            std::vector<float>(whole.pixels.begin() + static_cast<std::ptrdiff_t>(skipped),
                               whole.pixels.end()));
}

TEST(Loader, EpochsAndViewsDiffer) {
  DataLoader loader(pictures(), options(1));
  EXPECT_NE(collect(loader, 0, 0).indices, collect(loader, 1, 0).indices);
  loader.start(0);
  const auto batch = loader.next();
  EXPECT_NE(batch->views[0].to_vector<float>(), batch->views[1].to_vector<float>());
}

TEST(Loader, KeepsThePartialBatchAndOrderWhenAsked) {
  LoaderOptions o = options(2);
  o.shuffle = o.drop_last = false;
  DataLoader loader(pictures(), o);
  const Seen seen = collect(loader, 0, 0);
  ASSERT_EQ(seen.indices.size(), 60u);
  for (int64_t i = 0; i < 60; ++i) EXPECT_EQ(seen.indices[static_cast<size_t>(i)], i);
}

TEST(Loader, RanksShareTheEpoch) {
  std::multiset<int64_t> all;
  for (int rank = 0; rank < 3; ++rank) {
    LoaderOptions o = options(1);
    o.drop_last = false;
    o.rank = rank;
    o.world = 3;
    DataLoader loader(pictures(), o);
    for (const int64_t i : collect(loader, 0, 0).indices) all.insert(i);
  }
  EXPECT_EQ(all.size(), 60u);
  EXPECT_EQ(std::set<int64_t>(all.begin(), all.end()).size(), 60u);
}

// Batch k of all ranks together is batch k of one rank, whatever is left over at the end.
TEST(Loader, RanksShareEveryBatch) {
  for (const char* count : {"shapes:train=47,size=8", "shapes:train=41,size=8"}) {
    const DatasetPtr dataset = open_dataset(count, Split::train);
    LoaderOptions o = options(1);
    DataLoader one(dataset, o);
    o.batch_size /= 2;
    o.world = 2;
    DataLoader first(dataset, o);
    o.rank = 1;
    DataLoader second(dataset, o);
    EXPECT_EQ(first.batches(), one.batches());
    while (const auto batch = one.next()) {
      std::multiset<int64_t> want, got;
      for (const int64_t i : batch->indices.to_vector<int64_t>()) want.insert(i);
      for (DataLoader* loader : {&first, &second})
        for (const int64_t i : loader->next()->indices.to_vector<int64_t>()) got.insert(i);
      EXPECT_EQ(got, want);
    }
    EXPECT_FALSE(first.next() || second.next());
  }
}

TEST(Loader, AWorkersErrorNamesTheSample) {
  const DatasetPtr broken = slow("shapes:train=60", 17);
  for (const int workers : {0, 2}) {
    DataLoader loader(broken, options(workers));
    const std::string error = test::error_of<Error>([&] {
      while (loader.next()) {
      }
    });
    test::expect_parts(error, {"sample 17"});
  }
}

TEST(Loader, StopsInTheMiddleCleanly) {
  for (int i = 0; i < 5; ++i) {
    DataLoader loader(pictures(), options(3));
    loader.next();
  }
}

TEST(Loader, TooFewSamplesIsAnError) {
  LoaderOptions o = options(1);
  o.batch_size = 64;
  EXPECT_THROW(DataLoader(pictures(), o), Error);
}

}  // namespace
}  // namespace facet
