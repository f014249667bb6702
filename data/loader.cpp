#include "data/loader.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "tensor/ops.h"

namespace facet {
namespace {

// Puts the part of a picture that the last plans need behind the pixels of a batch.
void pack(const Image& image, std::vector<PlannedViews>& views, std::vector<uint8_t>& pixels) {
  int top = image.height, left = image.width, bottom = 0, right = 0;
  for (const PlannedViews& view : views) {
    const Rectangle& w = view.plans.back().window;
    top = std::min(top, w.top);
    left = std::min(left, w.left);
    bottom = std::max(bottom, w.top + w.height);
    right = std::max(right, w.left + w.width);
  }
  for (PlannedViews& view : views) {
    ViewPlan& plan = view.plans.back();
    plan.offset = static_cast<int64_t>(pixels.size());
    plan.height = bottom - top;
    plan.width = right - left;
    plan.window.top -= top;
    plan.window.left -= left;
  }
  for (int y = top; y < bottom; ++y)
    pixels.insert(pixels.end(), image.at(y, left),
                  image.at(y, left) + static_cast<size_t>(right - left) * 3);
}

}  // namespace

DataLoader::DataLoader(DatasetPtr dataset, LoaderOptions options)
    : dataset_(std::move(dataset)), options_(std::move(options)) {
  FACET_CHECK(options_.batch_size > 0 && !options_.views.empty(), "loader",
              "expected a batch size and at least one view");
  FACET_CHECK(options_.world >= 1 && options_.rank >= 0 && options_.rank < options_.world, "loader",
              "rank {} of {}", options_.rank, options_.world);
  FACET_CHECK(batches() > 0, "loader",
              "{}: {} samples do not fill one batch of {}; try a smaller batch", dataset_->name(),
              dataset_->size(), options_.batch_size);
  start(0);
}

DataLoader::~DataLoader() {
  stop();
}

int64_t DataLoader::batches() const {
  // The same for any number of ranks that share batches of one size.
  const int64_t together = options_.batch_size * options_.world;
  return (dataset_->size() + (options_.drop_last ? 0 : together - 1)) / together;
}

bool DataLoader::leaves_views() const {
  return options_.views_on_device && std::all_of(options_.views.begin(), options_.views.end(),
                                                 [](const Pipeline& p) { return p.on_devices(); });
}

void DataLoader::start(int64_t epoch, int64_t first) {
  stop();
  epoch_ = epoch;
  const int64_t n = dataset_->size();
  std::vector<int64_t> all(static_cast<size_t>(n));
  std::iota(all.begin(), all.end(), int64_t{0});
  if (options_.shuffle) {
    RandomSequence random(
        random_key(options_.seed, RandomPurpose::order).child(static_cast<uint64_t>(epoch)));
    random.shuffle(all);
  }
  order_.clear();
  const int64_t per_rank = (n + options_.world - 1) / options_.world;
  for (int64_t i = 0; i < per_rank; ++i)
    order_.push_back(all[static_cast<size_t>((i * options_.world + options_.rank) % n)]);
  to_make_ = to_take_ = first;
  error_ = nullptr;
  stopping_ = false;
  for (int w = 0; w < options_.workers; ++w) workers_.emplace_back([this] { work(); });
}

void DataLoader::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
  ready_.clear();
}

void DataLoader::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] {
      return stopping_ || to_make_ >= batches() || to_make_ < to_take_ + options_.prefetch;
    });
    if (stopping_ || to_make_ >= batches()) return;
    const int64_t batch = to_make_++;
    lock.unlock();
    Batch made;
    std::exception_ptr error;
    try {
      made = make(batch);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error) {
      if (!error_) error_ = error;
      stopping_ = true;
    } else {
      ready_.emplace(batch, std::move(made));
    }
    changed_.notify_all();
  }
}

std::optional<Batch> DataLoader::next() {
  if (options_.workers == 0)
    return to_take_ < batches() ? std::optional(make(to_take_++)) : std::nullopt;
  std::unique_lock lock(mutex_);
  if (to_take_ >= batches()) return std::nullopt;
  const auto begin = std::chrono::steady_clock::now();
  changed_.wait(lock, [&] { return error_ || ready_.contains(to_take_); });
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  if (!ready_.contains(to_take_)) std::rethrow_exception(error_);
  Batch batch = std::move(ready_.extract(to_take_).mapped());
  ++to_take_;
  changed_.notify_all();
  return batch;
}

Batch DataLoader::make(int64_t batch) const {
  const int64_t begin = batch * options_.batch_size;
  const int64_t end =
      std::min<int64_t>(begin + options_.batch_size, static_cast<int64_t>(order_.size()));
  Batch result;
  result.indices = Tensor::from(std::vector<int64_t>(order_.begin() + begin, order_.begin() + end),
                                {end - begin});
  result.labels = ops::gather_rows(dataset_->labels(), result.indices);
  const RandomKey key =
      random_key(options_.seed, RandomPurpose::augment).child(static_cast<uint64_t>(epoch_));
  const bool leaves = leaves_views();
  for (const Pipeline& pipeline : options_.views)
    if (leaves)
      result.planned.push_back({{}, pipeline.scale()});
    else
      result.views.push_back(Tensor::empty({end - begin, pipeline.size(), pipeline.size(), 3}));
  std::vector<uint8_t> pixels;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t index = order_[static_cast<size_t>(i)];
    try {
      const Image image = dataset_->image(index);
      for (size_t v = 0; v < options_.views.size(); ++v) {
        const RandomSequence random(key.child(static_cast<uint64_t>(index)).child(v));
        if (leaves) {
          result.planned[v].plans.push_back(
              options_.views[v].plan(image.height, image.width, random));
          continue;
        }
        const int64_t numel = result.views[v].numel() / (end - begin);
        options_.views[v](image, random, result.views[v].data<float>() + (i - begin) * numel);
      }
      if (leaves) pack(image, result.planned, pixels);
    } catch (const Error& e) {
      throw Error(fmt::format("{} sample {}: {}", dataset_->name(), index, e.what()),
                  e.exit_code());
    }
  }
  if (leaves) result.pixels = Tensor::from(pixels, {static_cast<int64_t>(pixels.size())});
  return result;
}

}  // namespace facet
