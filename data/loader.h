// DataLoader: batches of augmented views, made by worker threads ahead of the consumer.
#pragma once

#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "data/batch.h"
#include "data/dataset.h"
#include "data/pipeline.h"

namespace facet {

// What becomes of a sample that cannot be decoded.
enum class OnBadSample : uint8_t {
  fail,        // an error that names the file
  skip,        // another sample in its place, drawn from (seed, epoch, the bad one)
  substitute,  // the same, of its class
  omit,        // none in its place: the batch is smaller (for evaluation)
};

struct LoaderOptions {
  std::vector<Pipeline> views;  // one pipeline a view
  int64_t batch_size = 128;
  uint64_t seed = 0;
  bool shuffle = true;
  bool drop_last = true;  // leave out a last batch that is not full
  int workers = 1;        // threads; 0 makes batches in next()
  int prefetch = 4;       // batches ahead of the consumer
  // Batches carry pixels, which workers send there, and plans; Batch::to() makes the views.
  std::optional<Device> views_on = {};
  // Rank r of W takes every W-th sample of the epoch's order, padded from its start to a multiple.
  int rank = 0, world = 1;
  OnBadSample on_bad_sample = OnBadSample::fail;
};

// The order of samples depends on (seed, epoch), the augmentation of a sample on (seed, epoch,
// its index, view): on nothing else, so any number of workers gives the same batches, and so does
// starting in the middle.
class DataLoader {
 public:
  DataLoader(DatasetPtr dataset, LoaderOptions options);
  ~DataLoader() { stop(); }

  int64_t batches() const;  // of an epoch
  // Goes to batch `first` of an epoch; what was under way is dropped.
  void start(int64_t epoch, int64_t first = 0);
  // The next batch, or nothing at the end of the epoch. Rethrows a worker's error.
  std::optional<Batch> next();

 private:
  Batch make(int64_t batch) const;
  // Makes row `row` of a batch of sample `index`, with the randomness of sample `key`.
  void show(int64_t index, int64_t key, int64_t row, Batch& batch,
            std::vector<uint8_t>& pixels) const;
  int64_t replacement(int64_t index, uint64_t attempt) const;
  void stop();
  void work();

  DatasetPtr dataset_;
  LoaderOptions options_;
  int64_t epoch_ = 0;
  std::vector<int64_t> order_;
  std::vector<std::vector<int64_t>> of_class_;  // samples, for substitutes

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, Batch> ready_;
  std::exception_ptr error_;
  int64_t to_make_ = 0, to_take_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace facet
