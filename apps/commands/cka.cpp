// facet cka: how alike two representations of the same samples are.
#include "metrics/cka.h"

#include "apps/command.h"
#include "apps/machine.h"
#include "tensor/npy.h"

namespace facet {
namespace {

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

}  // namespace

void run_cka(const Arguments& arguments) {
  Options options("cka", "Linear CKA of two representations of the same samples, (n, ...) each.");
  std::string first, second, device = "cpu";
  int64_t batch = 0;
  bool json = false;
  options.add("first", first, "A .npy file of floats");
  options.add("second", second, "Another one, with as many rows");
  options.add("-b,--batch-size", batch,
              "0: exact, of all rows at once; N: unbiased, over batches of N rows in order");
  options.add("--device", device, "cpu, cuda or cuda:N", Options::kProcess);
  options.flag("--json", json, "Print JSON", Options::kProcess);
  if (!options.parse(arguments)) return;
  if (second.empty()) throw UsageError("facet cka: expected two .npy files");
  if (batch != 0 && batch < 4)
    throw UsageError(fmt::format("--batch-size: expected 0, or 4 or more, got {}", batch));
  const Device where = use_device(device);
  const Tensor x = load_npy(first).to(where), y = load_npy(second).to(where);
  if (x.rank() < 2 || y.rank() < 2 || x.dim(0) != y.dim(0))
    throw FileError(fmt::format("{}, {}: expected two arrays (n, ...) of one n, got {} and {}",
                                first, second, x.str(), y.str()));
  const double cka = batch == 0 ? linear_cka(x, y) : minibatch_cka(x, y, batch);
  if (json)
    fmt::print("{}\n", Json({{"first", first},
                             {"second", second},
                             {"samples", x.dim(0)},
                             {"batch_size", batch},
                             {"cka", cka}})
                           .dump());
  else
    fmt::print("{} and {}: linear CKA {:.6f} ({} samples{})\n", first, second, cka, x.dim(0),
               batch == 0 ? std::string() : fmt::format(", unbiased over batches of {}", batch));
}

}  // namespace facet
