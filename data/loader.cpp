#include "data/loader.h"

#include <algorithm>
#include <numeric>

#include "tensor/ops.h"

namespace facet {
namespace {

// Puts the part of a picture that the plans need behind the pixels of a batch.
void pack(const uint8_t* picture, std::vector<ViewPlan>& plans, std::vector<uint8_t>& pixels) {
  const int width = plans[0].width;
  const Rectangle part = shown_part(plans);
  narrow(plans, part);
  for (ViewPlan& plan : plans) plan.offset = static_cast<int64_t>(pixels.size());
  for (int y = part.top; y < part.top + part.height; ++y) {
    const uint8_t* row = picture + (static_cast<size_t>(y) * width + part.left) * 3;
    pixels.insert(pixels.end(), row, row + static_cast<size_t>(part.width) * 3);
  }
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
  if (options_.on_bad_sample == OnBadSample::substitute) {
    FACET_CHECK(!dataset_->multi_label(), "loader",
                "{}: a substitute needs one label a picture; skip bad samples instead",
                dataset_->name());
    of_class_.resize(static_cast<size_t>(dataset_->num_classes()));
    for (int64_t i = 0; i < dataset_->size(); ++i)
      of_class_[static_cast<size_t>(dataset_->labels().data<int64_t>()[i])].push_back(i);
  }
  start(0);
}

int64_t DataLoader::batches() const {
  // The same for any number of ranks that share batches of one size.
  const int64_t together = options_.batch_size * options_.world;
  return (dataset_->size() + (options_.drop_last ? 0 : together - 1)) / together;
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
  changed_.wait(lock, [&] { return error_ || ready_.contains(to_take_); });
  if (!ready_.contains(to_take_)) std::rethrow_exception(error_);
  Batch batch = std::move(ready_.extract(to_take_).mapped());
  ++to_take_;
  changed_.notify_all();
  return batch;
}

int64_t DataLoader::replacement(int64_t index, uint64_t attempt) const {
  RandomSequence random(random_key(options_.seed, RandomPurpose::order)
                            .child(static_cast<uint64_t>(epoch_))
                            .child(static_cast<uint64_t>(index))
                            .child(attempt));
  if (of_class_.empty())
    return static_cast<int64_t>(random.below(static_cast<uint64_t>(dataset_->size())));
  const int64_t label = dataset_->labels().data<int64_t>()[index];
  const std::vector<int64_t>& alike = of_class_[static_cast<size_t>(label)];
  return alike[random.below(alike.size())];
}

void DataLoader::show(int64_t index, int64_t key, int64_t row, Batch& batch,
                      std::vector<uint8_t>& pixels) const {
  const RandomKey random = random_key(options_.seed, RandomPurpose::augment)
                               .child(static_cast<uint64_t>(epoch_))
                               .child(static_cast<uint64_t>(key));
  const Sample sample = dataset_->sample(index);
  std::vector<ViewPlan> plans;
  for (size_t v = 0; v < options_.views.size(); ++v)
    plans.push_back(
        options_.views[v].plan(sample.height(), sample.width(), RandomSequence(random.child(v))));
  Image buffer;
  const uint8_t* picture = sample.shown(plans, buffer);
  if (!batch.planned.empty()) {
    pack(picture, plans, pixels);
    for (size_t v = 0; v < plans.size(); ++v) batch.planned[v].plans.push_back(plans[v]);
    return;
  }
  for (size_t v = 0; v < plans.size(); ++v) {
    const int64_t numel = batch.views[v].numel() / batch.views[v].dim(0);
    float* const to = batch.views[v].data<float>() + row * numel;
    normalize(make_view(plans[v], picture), options_.views[v].scale(), to);
  }
}

Batch DataLoader::make(int64_t batch) const {
  constexpr uint64_t kMaxAttempts = 20;
  const int64_t begin = batch * options_.batch_size;
  const int64_t end =
      std::min<int64_t>(begin + options_.batch_size, static_cast<int64_t>(order_.size()));
  Batch result;
  for (const Pipeline& pipeline : options_.views)
    if (options_.views_on)
      result.planned.push_back({{}, pipeline.scale()});
    else
      result.views.push_back(Tensor::empty({end - begin, pipeline.size(), pipeline.size(), 3}));
  std::vector<uint8_t> pixels;
  std::vector<int64_t> indices;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t wanted = order_[static_cast<size_t>(i)];
    int64_t index = wanted;
    for (uint64_t attempt = 0;; ++attempt) {
      try {
        show(index, wanted, static_cast<int64_t>(indices.size()), result, pixels);
        indices.push_back(index);
        break;
      } catch (const Error& e) {
        const std::string message =
            fmt::format("{} sample {}: {}", dataset_->name(), index, e.what());
        if (options_.on_bad_sample == OnBadSample::fail || attempt == kMaxAttempts)
          throw Error(message, e.exit_code());
        if (std::ranges::find(result.bad, index, &BadSample::index) == result.bad.end())
          result.bad.push_back({index, message});
        if (options_.on_bad_sample == OnBadSample::omit) break;
        index = replacement(wanted, attempt);
      }
    }
  }
  const auto shown = static_cast<int64_t>(indices.size());
  if (shown == 0) throw Error(result.bad.back().error, ExitCode::bad_file);
  for (Tensor& view : result.views) view = view.narrow(0, shown);
  result.indices = Tensor::from(indices, {shown});
  result.labels = ops::gather_rows(dataset_->labels(), result.indices);
  if (options_.views_on)
    result.pixels =
        Tensor::from(pixels, {static_cast<int64_t>(pixels.size())}).sent_to(*options_.views_on);
  return result;
}

}  // namespace facet
