// facet dataset: what is in a dataset, whether all of it can be read, what the network sees of it,
// and a cache that makes reading cheap.
#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>

#include "apps/command.h"
#include "apps/data_options.h"
#include "apps/evaluate.h"
#include "apps/interrupt.h"
#include "apps/log.h"
#include "apps/machine.h"
#include "apps/methods.h"
#include "data/cache.h"
#include "data/png.h"
#include "data/verify.h"
#include "tensor/file.h"
#include "tensor/parallel.h"

namespace facet {
namespace {

constexpr Split kSplits[] = {Split::train, Split::test};

struct Source {
  std::string data;
  ReadingOptions reading;
  bool json = false;

  void add_to(Options& options) {
    required(options.add("data", data, "Dataset:\n" + dataset_help()));
    reading.add_to(options);
    options.flag("--json", json, "Print JSON");
  }
  DatasetPtr open(Split split) const { return reading.open(data, split); }
};

// Calls work(first, last) on ranges of all samples on all cores, a block at a time; tells how far
// it is.
void each_range(const Dataset& dataset, const std::string& title,
                const std::function<void(int64_t, int64_t)>& work) {
  constexpr int64_t kBlock = 4096;
  Stopwatch since_line;
  for (int64_t begin = 0; begin < dataset.size(); begin += kBlock) {
    const int64_t count = std::min(kBlock, dataset.size() - begin);
    parallel_for(count, 1, [&](int64_t first, int64_t last) { work(begin + first, begin + last); });
    stop_if_interrupted(title + " stopped");
    if (since_line.seconds() < 10) continue;
    log_info("{}: {} of {}", title, begin + count, dataset.size());
    since_line = Stopwatch();
  }
}

// ---- verify

void verify(const Arguments& arguments) {
  Options options(
      "dataset verify",
      "Checks a dataset's tree and decodes every picture; exit code 4 when one cannot be decoded.");
  Source source;
  bool isolate = false;
  source.add_to(options);
  options.flag("--isolate", isolate,
               "Decode in child processes: a picture that crashes a decoder is named, too");
  if (!options.parse(arguments)) return;
  Json result = Json::object();
  int64_t bad = 0;
  if (!source.json)
    fmt::print("{:<6} {:>10} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}\n", "split", "pictures",
               "JPEG", "PNG", "GIF", "BMP", "other", "warned", "bad");
  for (const Split split : kSplits) {
    const DatasetPtr dataset = source.open(split);
    std::mutex mutex;
    std::map<std::string, int64_t> kinds;
    std::map<int64_t, std::string> errors, warned;  // by index: in the same order every time
    const auto report = [&](int64_t i, const SampleCheck& check) {
      const std::lock_guard lock(mutex);
      if (!check.error.empty())
        errors[i] = check.error;
      else
        ++kinds[check.kind];
      if (!check.warnings.empty()) warned[i] = check.warnings;
    };
    each_range(*dataset, name(split), [&](int64_t first, int64_t last) {
      if (isolate) return check_in_children(*dataset, first, last, report, interrupted);
      for (int64_t i = first; i < last && !interrupted(); ++i) report(i, check_sample(*dataset, i));
    });
    bad += static_cast<int64_t>(errors.size());
    const auto listed = [](const std::map<int64_t, std::string>& lines, const char* key) {
      Json list = Json::array();
      for (const auto& [index, line] : lines) list.push_back({{"index", index}, {key, line}});
      return list;
    };
    result[name(split)] = {
        {"dataset", dataset->describe()},       {"fingerprint", dataset->fingerprint()},
        {"pictures", dataset->size()},          {"kinds", kinds},
        {"warned", listed(warned, "warnings")}, {"bad", listed(errors, "error")}};
    if (source.json) continue;
    fmt::print("{:<6} {:>10} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}\n", name(split),
               dataset->size(), kinds["JPEG"], kinds["PNG"], kinds["GIF"], kinds["BMP"],
               kinds["other"], warned.size(), errors.size());
    for (const auto* lines : {&warned, &errors})
      for (const auto& [index, line] : *lines) fmt::print("  {}\n", line);
  }
  if (source.json) print_json(result);
  std::fflush(stdout);
  if (bad > 0)
    throw Error(fmt::format("{}: {} pictures cannot be decoded", source.data, bad),
                ExitCode::verification);
}

// The picture, or none with a warning where it cannot be decoded: stats and preview show the
// others.
std::optional<Image> decoded(const Dataset& dataset, int64_t index) {
  try {
    return dataset.image(index);
  } catch (const FileError& e) {
    log_info("warning: {}", e.what());
    return std::nullopt;
  }
}

// ---- stats

struct Spread {
  int64_t low = 0, middle = 0, high = 0;
  explicit Spread(std::vector<int64_t> values) {
    if (values.empty()) return;
    std::sort(values.begin(), values.end());
    low = values.front();
    middle = values[values.size() / 2];
    high = values.back();
  }
  std::string text() const { return fmt::format("{} / {} / {}", low, middle, high); }
};

std::vector<int64_t> class_counts(const Dataset& dataset) {
  std::vector<int64_t> counts(static_cast<size_t>(dataset.num_classes()));
  for (int64_t i = 0; i < dataset.labels().numel(); ++i)
    if (dataset.multi_label())
      counts[static_cast<size_t>(i % dataset.num_classes())] +=
          dataset.labels().data<float>()[i] > 0;
    else
      ++counts[static_cast<size_t>(dataset.labels().data<int64_t>()[i])];
  return counts;
}

void stats(const Arguments& arguments) {
  Options options("dataset stats", "Counts of a dataset, and sizes and colours of some pictures.");
  Source source;
  int64_t samples = 500;
  source.add_to(options);
  options.add("--samples", samples, "Pictures that are decoded, spread evenly");
  if (!options.parse(arguments)) return;
  if (samples < 1) throw UsageError("--samples: expected at least 1");
  Json result = Json::object();
  for (const Split split : kSplits) {
    const DatasetPtr dataset = source.open(split);
    const int64_t n = std::min(samples, dataset->size());
    std::mutex mutex;
    std::vector<int64_t> widths, heights;
    double pixels = 0, sum[3] = {}, squares[3] = {};
    parallel_for(n, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const auto image = decoded(*dataset, i * dataset->size() / n);
        if (!image) continue;
        double total[3] = {}, total2[3] = {};
        for (size_t p = 0; p < image->pixels.size(); ++p) {
          const double v = image->pixels[p] / 255.0;
          total[p % 3] += v;
          total2[p % 3] += v * v;
        }
        const std::lock_guard lock(mutex);
        widths.push_back(image->width);
        heights.push_back(image->height);
        pixels += static_cast<double>(image->pixels.size()) / 3;
        for (int c = 0; c < 3; ++c) {
          sum[c] += total[c];
          squares[c] += total2[c];
        }
      }
    });
    const int64_t bad = n - static_cast<int64_t>(widths.size());
    if (bad == n)
      throw FileError("{}: none of {} pictures can be decoded; facet dataset verify names all",
                      dataset->describe(), n);
    std::vector<double> mean, deviation;
    for (int c = 0; c < 3; ++c) {
      mean.push_back(sum[c] / pixels);
      deviation.push_back(std::sqrt(std::max(0.0, squares[c] / pixels - mean[c] * mean[c])));
    }
    const Spread per_class(class_counts(*dataset)), width(widths), height(heights);
    result[name(split)] = {{"dataset", dataset->describe()},
                           {"fingerprint", dataset->fingerprint()},
                           {"pictures", dataset->size()},
                           {"classes", dataset->num_classes()},
                           {"multi_label", dataset->multi_label()},
                           {"bad", bad},
                           {"per_class", {per_class.low, per_class.middle, per_class.high}},
                           {"width", {width.low, width.middle, width.high}},
                           {"height", {height.low, height.middle, height.high}},
                           {"mean", mean},
                           {"std", deviation}};
    if (source.json) continue;
    fmt::print("{}: {}\n  {} pictures, {} classes, pictures a class {} (least / median / most)\n",
               name(split), dataset->describe(), dataset->size(), dataset->num_classes(),
               per_class.text());
    fmt::print("  width {}, height {}; mean ({:.4f}), deviation ({:.4f}) of {} pictures\n",
               width.text(), height.text(), fmt::join(mean, ", "), fmt::join(deviation, ", "),
               n - bad);
    if (bad > 0) fmt::print("  {} of {} cannot be decoded\n", bad, n);
  }
  if (source.json) print_json(result);
}

// ---- preview

void paste(const Image& image, Image& sheet, int top, int left) {
  for (int y = 0; y < image.height; ++y)
    std::copy_n(image.at(y, 0), static_cast<size_t>(image.width) * 3, sheet.at(top + y, left));
}

void preview(const Arguments& arguments) {
  Options options("dataset preview",
                  "Writes what a network sees in training: a row a picture, the whole picture "
                  "(squashed) and then every view of the method.");
  Source source;
  MethodOptions method;
  NetworkOptions network;
  std::string output = "preview.png";
  int64_t rows = 8, epoch = 0;
  uint64_t seed = 0;
  double min_area = 0;
  source.add_to(options);
  method.add_to(options);
  network.add_to(options);
  options.add("--min-area", min_area, "Smallest random crop, as pretrain's");
  options.add("--rows", rows, "Pictures");
  options.add("--epoch", epoch, "Whose views");
  options.add("--seed", seed, "The run's");
  options.add("-o,--output", output, "The PNG file");
  options.with_recipes();
  if (!options.parse(arguments)) return;
  if (rows < 1 || rows > 256) throw UsageError("--rows: expected 1 to 256");
  const DatasetPtr dataset = source.open(Split::train);
  const std::vector<Pipeline> views =
      training_views(method, network, normalization_for(source.data, method.method),
                     is_grey(source.data), min_area);
  constexpr int kGap = 2;
  const int side = static_cast<int>(network.image_size);
  int width = side;
  for (const Pipeline& view : views) width += kGap + view.size();
  rows = std::min(rows, dataset->size());
  Image sheet(static_cast<int>(rows) * (side + kGap) - kGap, width);
  std::fill(sheet.pixels.begin(), sheet.pixels.end(), uint8_t{255});
  const RandomKey key =
      random_key(seed, RandomPurpose::augment).child(static_cast<uint64_t>(epoch));
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t index = row * dataset->size() / rows;
    const auto image = decoded(*dataset, index);
    if (!image) continue;  // its row stays white
    const int top = static_cast<int>(row) * (side + kGap);
    paste(resize(*image, side, side, Filter::bilinear), sheet, top, 0);
    int left = side + kGap;
    for (size_t v = 0; v < views.size(); ++v) {
      // As the loader draws them.
      const RandomSequence random(key.child(static_cast<uint64_t>(index)).child(v));
      paste(views[v].view(*image, random), sheet, top, left);
      left += views[v].size() + kGap;
    }
  }
  write_file(output, encode_png(sheet));
  if (source.json)
    print_json({{"output", output}, {"rows", rows}, {"views", views.size()}});
  else
    fmt::print("{}: {} pictures, {} views each\n", output, rows, views.size());
}

// ---- cache

void cache(const Arguments& arguments) {
  Options options("dataset cache",
                  "Writes all pictures decoded, the shorter side at most --size, into a folder "
                  "that --cache (or ',cache=FOLDER') then reads instead.");
  Source source;
  std::string output;
  int64_t size = 256;
  source.add_to(options);
  required(options.add("-o,--output", output, "The folder"));
  options.add("--size", size, "Pixels of the shorter side");
  if (!options.parse(arguments)) return;
  if (size < 8 || size > 4096) throw UsageError("--size: expected 8 to 4096");
  for (const Split split : kSplits) {
    const DatasetPtr dataset = source.open(split);
    const std::filesystem::path file = cache_file(output, split);
    Stopwatch since_line;
    int64_t bad = 0;
    std::function<void(const std::string&)> on_bad;
    if (source.reading.policy() != OnBadSample::fail)
      on_bad = [&](const std::string& error) {
        log_info("warning: {}", error);
        if (++bad > max_bad_samples(dataset->size()))
          throw FileError("{}: {} of {} samples cannot be decoded", source.data, bad,
                          dataset->size());
      };
    const auto progress = [&](int64_t done) {
      stop_if_interrupted("cache stopped");
      if (since_line.seconds() < 10) return;
      log_info("{}: {} of {}", file.string(), done, dataset->size());
      since_line = Stopwatch();
    };
    write_cache(*dataset, static_cast<int>(size), file, progress, on_bad);
    const auto bytes = std::filesystem::file_size(file);
    if (source.json)
      print_json(
          {{"file", file.string()}, {"pictures", dataset->size()}, {"bad", bad}, {"bytes", bytes}});
    else
      fmt::print("{}: {} pictures{}, {:.1f} MB\n", file.string(), dataset->size(),
                 bad > 0 ? fmt::format(", {} of them bad", bad) : "",
                 static_cast<double>(bytes) / 1e6);
  }
}

}  // namespace

void run_dataset(const Arguments& arguments) {
  run_one_of("dataset", "DATASET [options]",
             {{"verify", verify, "check the tree and decode every picture"},
              {"stats", stats, "counts, sizes and colours"},
              {"preview", preview, "a PNG of what the network sees"},
              {"cache", cache, "decode once, into files that are mapped into memory"}},
             arguments);
}

}  // namespace facet
