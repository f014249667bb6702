// facet cka: how alike two representations of the same samples are, or the stages of networks.
#include "metrics/cka.h"

#include "apps/command.h"
#include "apps/evaluate.h"
#include "apps/machine.h"
#include "apps/table.h"
#include "tensor/npy.h"

namespace facet {
namespace {

struct CkaOptions {
  std::string first, second, device = "cpu", data;
  int64_t batch = 0;
  SimilarityOptions stages;
  bool json = false, csv = false;
};

// Over batches of `size` rows; a rest of fewer than 4 is left out.
double minibatch_cka(const Tensor& x, const Tensor& y, int64_t size) {
  CkaAccumulator accumulator;
  for (int64_t start = 0; start + 4 <= x.dim(0); start += size) {
    const int64_t rows = std::min(size, x.dim(0) - start);
    const Tensor first = x.narrow(start, rows), second = y.narrow(start, rows);
    accumulator.add(std::span(&first, 1), std::span(&second, 1));
  }
  return accumulator.result().item();
}

void compare_arrays(const CkaOptions& o) {
  if (o.second.empty()) throw UsageError("facet cka: expected two .npy files");
  const Device where = use_device(o.device);
  const Tensor x = load_npy(o.first).to(where), y = load_npy(o.second).to(where);
  if (x.rank() < 2 || y.rank() < 2 || x.dim(0) != y.dim(0))
    throw FileError("{}, {}: expected two arrays (n, ...) of one n, got {} and {}", o.first,
                    o.second, x.str(), y.str());
  const double cka = about(o.first + ", " + o.second, [&] {
    return o.batch == 0 ? linear_cka(x, y) : minibatch_cka(x, y, o.batch);
  });
  if (o.json)
    print_json({{"first", o.first},
                {"second", o.second},
                {"samples", x.dim(0)},
                {"batch_size", o.batch},
                {"cka", cka}});
  else if (o.csv)
    fmt::print("first,second,samples,cka\n{},{},{},{}\n", csv_field(o.first), csv_field(o.second),
               x.dim(0), cka);
  else
    fmt::print(
        "{} and {}: linear CKA {:.6f} ({} samples{})\n", o.first, o.second, cka, x.dim(0),
        o.batch == 0 ? std::string() : fmt::format(", unbiased over batches of {}", o.batch));
}

void compare_networks(CkaOptions o) {
  if (o.data.empty()) throw UsageError("facet cka: networks are compared on pictures: give --data");
  need(o.stages.epochs >= 1, "--epochs", "1 or more", o.stages.epochs);
  if (o.batch > 0) o.stages.batch_size = o.batch;
  const Device device = use_device(o.device);
  TrainedNetwork first = load_network(o.first, device), second;
  const bool two = !o.second.empty();
  if (two) second = load_network(o.second, device);
  const DatasetPtr pictures = open_dataset(o.data, Split::test);
  if (pictures->size() < 4)
    throw UsageError("--data {}: expected 4 pictures or more, got {}", o.data, pictures->size());
  const Tensor matrix = stage_similarity(first, two ? &second : nullptr, pictures, o.stages);
  const Json rows = rows_of(matrix);
  // A model's own score leaves the diagonal out.
  const double score = two ? 100.0 * mean_of(matrix) : rows.size() > 1 ? cka_score(matrix) : 100.0;
  const char* const what = o.stages.blocks ? "block" : "stage";
  Table table{{two ? fmt::format("{} \\ {}", first.name, second.name) : first.name}};
  for (int64_t j = 1; j <= matrix.dim(1); ++j)
    table.columns.push_back(fmt::format("{} {}", what, j));
  for (const Json& row : rows) {
    table.rows.push_back({fmt::format("{} {}", what, table.rows.size() + 1)});
    for (const double value : row) table.rows.back().push_back(number_cell(value, o.csv));
  }
  if (o.json)
    print_json({{"first", first.name},
                {"second", two ? Json(second.name) : Json(nullptr)},
                {"data", o.data},
                {"pictures", pictures->size()},
                {"batch_size", o.stages.batch_size},
                {"epochs", o.stages.epochs},
                {"matrix", rows},
                {"score", score}});
  else if (o.csv)
    fmt::print("{}", table.csv());
  else
    fmt::print("{}CKA score {:.2f} ({} pictures, unbiased over batches of {})\n", table.text(),
               score, pictures->size(), o.stages.batch_size);
}

}  // namespace

void run_cka(const Arguments& arguments) {
  Options options("cka",
                  "Linear CKA of two representations of the same samples, (n, ...) each; or "
                  "between the stages of a network, or of two, on pictures.");
  CkaOptions settings;
  options.add("first", settings.first, "A .npy file of floats; or a run's folder or checkpoint");
  options.add("second", settings.second,
              "Another one, with as many rows; or another network (default: the same)");
  options.add("-b,--batch-size", settings.batch,
              "Arrays: 0 is exact, of all rows at once; N unbiased, over batches of N rows in "
              "order. Networks: always batches (0: 600)");
  options.add("--data,--dataset", settings.data,
              "Networks: whose test pictures they see:\n" + dataset_help());
  options.add("--epochs", settings.stages.epochs, "Networks: times that all pictures are seen");
  options.flag("--blocks", settings.stages.blocks, "Networks: after every block of a ResNet");
  options.add("--seed", settings.stages.seed, "Networks: of the order of the pictures");
  options.add("-j,--workers", settings.stages.workers, "Threads that prepare batches",
              Options::kProcess);
  options.add("--device", settings.device, "cpu, cuda or cuda:N", Options::kProcess);
  options.flag("--json", settings.json, "Print JSON", Options::kProcess);
  options.flag("--csv", settings.csv, "Print comma-separated values", Options::kProcess);
  if (!options.parse(arguments)) return;
  if (settings.first.empty())
    throw UsageError("facet cka: expected two .npy files, or one or two networks");
  need(settings.batch == 0 || settings.batch >= 4, "--batch-size", "0, or 4 or more",
       settings.batch);
  if (settings.first.ends_with(".npy"))
    compare_arrays(settings);
  else
    compare_networks(settings);
}

}  // namespace facet
