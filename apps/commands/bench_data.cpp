// facet bench data: pictures a second from files to what the network sees, on one thread.
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "apps/command.h"
#include "apps/interrupt.h"
#include "apps/log.h"
#include "apps/machine.h"
#include "data/cache.h"
#include "data/file_list.h"
#include "data/pipeline.h"
#include "tensor/file.h"

namespace facet {

namespace fs = std::filesystem;

namespace {

// The pictures of a folder as a dataset from a cache. The mapped file outlives its name.
DatasetPtr cached_folder(const fs::path& folder, const std::vector<fs::path>& paths, int shorter) {
  FileList list{folder, "one", {"pictures"}};
  for (const fs::path& path : paths) list.entries.push_back({path.filename().string()});
  const auto files = std::make_shared<FileListDataset>(
      DatasetFacts{"pictures"}, std::move(list), Split::train, SplitOptions{.check_counts = false});
  const fs::path file =
      fs::temp_directory_path() / fmt::format("facet_bench_{}.pictures", ::getpid());
  write_cache(*files, shorter, file, [](int64_t) {});
  auto cached = std::make_shared<CachedDataset>(files, file);
  fs::remove(file);
  return cached;
}

}  // namespace

void bench_data(const Arguments& arguments) {
  Options options("bench data",
                  "Times decoding and augmentation of the pictures of a folder on one thread.");
  std::string folder, views = "moco";
  int64_t size = 224;
  int64_t cache = 0;
  double seconds = 3;
  bool json = false;
  required(options.add("--folder", folder, "JPEG, PNG, GIF and BMP files"));
  options.choice("--views", views, {"none", "supervised", "moco"},
                 "Decoding alone, one view, or MoCo v2's two");
  options.add("--image-size", size, "Pixels a side of a view");
  options.add("--cache", cache,
              "From a cache of this shorter side, made first (0: from the files)");
  options.add("--seconds", seconds, "At least");
  options.flag("--json", json, "Print JSON");
  if (!options.parse(arguments)) return;
  if (size < 1) throw UsageError("--image-size: expected at least 1");
  if (cache < 0 || cache > 4096) throw UsageError("--cache: expected 0 to 4096");

  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> files;  // in memory: the disk is not what is timed
  for (const fs::path& path : paths) files.push_back(read_file(path));
  if (files.empty()) throw FileError("{}: expected pictures, found none", folder);
  const auto open = [&](size_t i) {
    return EncodedPicture({files[i].begin(), files[i].end()}, paths[i].string());
  };

  std::vector<Pipeline> pipelines;
  const int side = static_cast<int>(size);
  if (views == "supervised") pipelines = {supervised_pipeline(side, kImagenetNormalization)};
  if (views == "moco") pipelines.assign(2, moco_v2_pipeline(side, kImagenetNormalization));
  std::vector<float> view(static_cast<size_t>(size * size * 3));
  // The mean over all pixels of all pictures tells whether others decode the same.
  double mean = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    const Image image = open(i).decode();
    double sum = 0;
    for (const uint8_t v : image.pixels) sum += v;
    mean += sum / static_cast<double>(image.pixels.size() * files.size());
  }
  const DatasetPtr cached =
      cache > 0 ? cached_folder(folder, paths, static_cast<int>(cache)) : nullptr;
  int64_t count = 0;
  const Stopwatch clock;
  for (size_t i = 0; count == 0 || clock.seconds() < seconds; i = (i + 1) % files.size()) {
    const Sample picture = cached ? cached->sample(static_cast<int64_t>(i)) : Sample(open(i));
    std::vector<ViewPlan> plans;
    for (uint64_t v = 0; v < pipelines.size(); ++v)
      plans.push_back(pipelines[v].plan(picture.height(), picture.width(),
                                        RandomSequence({static_cast<uint64_t>(count), v})));
    Image buffer;
    if (plans.empty()) buffer = picture.decode();
    const uint8_t* pixels = plans.empty() ? nullptr : picture.shown(plans, buffer);
    for (size_t v = 0; v < plans.size(); ++v)
      normalize(make_view(plans[v], pixels), pipelines[v].scale(), view.data());
    ++count;
    stop_if_interrupted("bench stopped");
  }
  const double rate = static_cast<double>(count) / clock.seconds();
  if (json)
    print_json({{"images_per_second", rate}, {"mean", mean}});
  else
    fmt::print("{:.1f} pictures/s on one thread ({} files, views: {})\n", rate, files.size(),
               views);
}

}  // namespace facet
