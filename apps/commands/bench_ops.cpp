// facet bench ops: the time of every operation of the test table, forward and backward, beside what
// the device's memory and arithmetic allow, and beside the naive twins of tuned kernels.
#include <algorithm>
#include <map>
#include <memory>

#include "apps/command.h"
#include "apps/interrupt.h"
#include "apps/log.h"
#include "apps/machine.h"
#include "apps/report/page.h"
#include "apps/table.h"
#include "tensor/file.h"
#include "tensor/profile.h"
#include "tests/op_case.h"
#if defined(FACET_CUDA)
#include "cuda/runtime.h"
#include "cuda/vendor/library.h"
#endif

namespace facet {
namespace {

using test::Input;
using test::OpCase;

// One pass of one row in one type.
struct OpTime {
  std::string op, shapes, pass, row;
  DType dtype = DType::f32;
  // By kind of kernels; the first is what everybody gets, and what the rates are of.
  std::vector<std::pair<std::string, double>> milliseconds;
  double gb_per_s = 0.0, tflop_per_s = 0.0;
  double flop_per_byte = 0.0;
  double share = 0.0;  // of the least time that the device's own rates allow

  Json json() const {
    Json times = Json::object();
    for (const auto& [kernels, ms] : milliseconds) times[kernels] = ms;
    return {{"op", op},
            {"shapes", shapes},
            {"pass", pass},
            {"dtype", name(dtype)},
            {"row", row},
            {"milliseconds", times},
            {"gb_per_s", gb_per_s},
            {"tflop_per_s", tflop_per_s},
            {"flop_per_byte", flop_per_byte},
            {"share", share}};
  }
};

constexpr int kFewest = 3, kMost = 200;         // repetitions
constexpr int64_t kFlush = int64_t{256} << 20;  // bytes, several times any second-level cache
constexpr int64_t kCopy = int64_t{64} << 20;    // elements of the copy that is measured
constexpr double kGiga = 1e9, kTera = 1e12;

// What is timed, made anew each time by what is not.
using Work = std::function<void()>;
using Prepare = std::function<Work()>;
Prepare always(Work work) {
  return [work] { return work; };
}

// Runs work on one device and says how long it took.
class Timer {
 public:
  Timer(Device device, double budget, bool flush) : device_(device), budget_(budget) {
#if defined(FACET_CUDA)
    if (!device.is_cpu()) clock_ = std::make_unique<cuda::DeviceTimer>(device.index);
    if (!device.is_cpu() && flush) flush_ = Tensor::zeros({kFlush}, DType::u8, device);
#else
    static_cast<void>(flush);
#endif
  }

  // Median seconds of the work that `prepare` makes, after a warm-up. On a CUDA device work that
  // can be recorded is replayed, so that launching costs nothing, and caches are emptied before
  // each time.
  double median_seconds(const Prepare& prepare) {
    prepare()();
    Prepare next = prepare;
#if defined(FACET_CUDA)
    std::unique_ptr<cuda::Graph> graph;
    if (!device_.is_cpu()) {
      graph = std::make_unique<cuda::Graph>(device_.index);
      try {
        graph->record(prepare());
        next = [&] { return [&] { graph->replay(); }; };
      } catch (const Error&) {  // it waits for the device: timed as it is launched
      }
    }
#endif
    std::vector<double> times;
    const Stopwatch whole;
    while (times.size() < kFewest || (whole.seconds() < budget_ && times.size() < kMost)) {
      times.push_back(once(next()));
      stop_if_interrupted("bench stopped");
    }
    return median(times);
  }

 private:
  double once(const Work& run) {
#if defined(FACET_CUDA)
    if (clock_) {
      if (flush_.defined()) flush_.fill_(0);
      clock_->start();
      run();
      return clock_->stop();
    }
#endif
    const Stopwatch clock;
    run();
    return clock.seconds();
  }

  Device device_;
  double budget_;
  Tensor flush_;
#if defined(FACET_CUDA)
  std::unique_ptr<cuda::DeviceTimer> clock_;
#endif
};

// The kinds of kernels that there are for `work`; the first is what everybody gets.
std::vector<const char*> kernels_of(Device device, const Work& work) {
#if defined(FACET_CUDA)
  if (!device.is_cpu()) {
    const int64_t choices = cuda::kernel_choices(), calls = cuda::vendor::calls();
    work();
    std::vector<const char*> kinds;
    if (cuda::vendor::calls() != calls) kinds.push_back("vendor");
    kinds.push_back("tuned");
    if (cuda::kernel_choices() != choices) kinds.push_back("naive");
    return kinds;
  }
#endif
  static_cast<void>(device), static_cast<void>(work);
  return {"cpu"};
}
void choose_kernels(const std::string& kind) {
#if defined(FACET_CUDA)
  using enum cuda::KernelChoice;
  cuda::set_kernel_choice(kind == "naive" ? naive : kind == "tuned" ? tuned : vendor);
#endif
  static_cast<void>(kind);
}

// What one run of `work` asks of a device.
struct Cost {
  double bytes = 0.0, flops = 0.0;
};
Cost cost_of(Device device, const Work& work) {
  const Profile profile(device.type);
  work();
  Cost cost;
  for (const ProfilingBackend::Row& row : profile.rows())
    cost.bytes += row.bytes, cost.flops += row.flops;
  return cost;
}

// The device's own rates, measured in the same run: bytes read and written a second by a copy,
// operations a second by a large product of each type.
struct Ceilings {
  double copy = 0.0;
  std::map<DType, double> products;
  // The least seconds that work of this cost can take.
  double floor(const Cost& cost, DType dtype) const {
    return std::max(cost.bytes / copy, cost.flops / products.at(dtype));
  }
};
Ceilings measure_ceilings(Timer& timer, Device device, const std::vector<DType>& dtypes,
                          bool small) {
  Ceilings ceilings;
  const int64_t elements = small ? 1 << 16 : kCopy;
  const Tensor from = Tensor::zeros({elements}, DType::f32, device);
  Tensor to = Tensor::empty_like(from);
  ceilings.copy = 2.0 * static_cast<double>(from.bytes()) /
                  timer.median_seconds(always([&] { to.copy_(from); }));
  const int64_t n = small ? 64 : device.is_cpu() ? 2048 : 8192;
  for (const DType dtype : dtypes) {
    // Random numbers: zeros make a product faster than it is.
    const auto matrix = [&](uint64_t stream) {
      return ops::random_normal({n, n}, {1, stream}, 0.0, 1.0, DType::f32, device).cast(dtype);
    };
    const Tensor a = matrix(1), b = matrix(2);
    Tensor out = Tensor::empty_like(a);
    const auto size = static_cast<double>(n);
    ceilings.products[dtype] =
        2.0 * size * size * size /
        timer.median_seconds(always([&] { ops::matmul_into(a, b, {}, out); }));
  }
  return ceilings;
}

// "conv2d" of "conv2d_3x3_16_to_16_of_1_8_8": the numbers are the small shapes of the tests.
std::string kind_of(const std::string& row) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  for (size_t i = 0; i + 1 < row.size(); ++i)
    if (row[i] == '_' && digit(row[i + 1])) return row.substr(0, i);
  return row;
}
// "8x224x224x3 64x7x7x3 -> 8x112x112x64": of the inputs and the first output.
std::string shapes_of(const VariableList& inputs, const Variable& output) {
  std::string text;
  const auto add = [&](const Shape& shape) {
    text += shape.rank() == 0 ? "1" : fmt::format("{}", fmt::join(shape, "x"));
  };
  for (const Variable& input : inputs) {
    add(input.shape());
    text += ' ';
  }
  text += "-> ";
  add(output.shape());
  return text;
}

// Both passes of one row in one type.
std::vector<OpTime> time_row(const OpCase& op, const std::vector<Input>& inputs, DType dtype,
                             Device device, Timer& timer, const Ceilings& ceilings) {
  const VariableList leaves =
      test::make_variables(op, test::draw_inputs(op, inputs), dtype, device);
  const auto& run = op.timed ? op.timed : op.run;
  const std::string shapes = shapes_of(leaves, run(leaves)[0]);
  const Prepare forward = always([&] {
    const NoGrad none;
    run(leaves);
  });
  // From the gradient of the first output to those of the inputs.
  const Prepare backward_pass = [&]() -> Work {
    for (Variable leaf : leaves) leaf.clear_grad();
    const Variable output = run(leaves)[0];
    const Tensor dy = Tensor::full(output.shape(), 1.0, output.dtype(), device);
    return [output, dy] { backward(output, dy); };
  };
  std::vector<OpTime> times;
  const auto add = [&](const char* pass, const Prepare& prepare) {
    OpTime time{kind_of(op.name), shapes, pass, op.name, dtype, {}};
    const Cost cost = cost_of(device, prepare());
    for (const char* kernels : kernels_of(device, prepare())) {
      choose_kernels(kernels);
      time.milliseconds.emplace_back(kernels, timer.median_seconds(prepare) * 1e3);
    }
    choose_kernels("vendor");
    const double seconds = time.milliseconds.front().second * 1e-3;
    time.gb_per_s = cost.bytes / seconds / kGiga;
    time.tflop_per_s = cost.flops / seconds / kTera;
    time.flop_per_byte = cost.flops / cost.bytes;
    time.share = ceilings.floor(cost, dtype) / seconds;
    times.push_back(time);
  };
  add("forward", forward);
  if (op.differentiable) add("backward", backward_pass);
  return times;
}

// "naive 3.1, ...": how much longer the other kernels take.
std::string others(const OpTime& time) {
  std::string text;
  for (size_t i = 1; i < time.milliseconds.size(); ++i)
    text += fmt::format("{}{} {:.2f}", i > 1 ? ", " : "", time.milliseconds[i].first,
                        time.milliseconds[i].second / time.milliseconds[0].second);
  return text;
}

std::string render_page(const Json& about, const Ceilings& ceilings,
                        const std::vector<OpTime>& times) {
  Page page;
  page.begin("Operations of facet on " + about["device"].get<std::string>());
  page.add("<p class=\"soft\">facet {}, {}, {}. A copy moves {:.0f} GB/s.</p>",
           html_escape(about["machine"]["version"]), html_escape(about["machine"]["processor"]),
           html_escape(about["created"]), ceilings.copy / kGiga);
  page.raw(
      "<p>Each mark is an operation of the test table. The line is what memory and arithmetic, "
      "measured in the same run, allow; the distance below it is what is left to gain. Bytes "
      "count every tensor once, operations those of products, convolutions and attention.</p>"
      "<div class=\"plots\">");
  int colour = 0;
  for (const auto& [dtype, rate] : ceilings.products) {
    Plot plot;
    plot.title = fmt::format("{} operations", name(dtype));
    plot.x_label = "operations a byte";
    plot.y_label = "TFLOP/s";
    plot.logarithmic = true;
    PlotSeries roof{"possible", 5, Mark::line, {}};
    PlotSeries marks{name(dtype), colour++, Mark::circle, {}};
    const double ridge = rate / ceilings.copy;
    double low = ridge, high = ridge;
    for (const OpTime& time : times) {
      if (time.dtype != dtype || !(time.tflop_per_s > 0)) continue;
      low = std::min(low, time.flop_per_byte);
      high = std::max(high, time.flop_per_byte);
      marks.points.push_back(
          {time.flop_per_byte, time.tflop_per_s, "",
           fmt::format("{} {} {}: {:.3g} TFLOP/s, {:.0f}% of the possible", time.op, time.shapes,
                       time.pass, time.tflop_per_s, 100 * time.share)});
    }
    for (const double x : {low, ridge, high})
      roof.points.push_back({x, std::min(rate, x * ceilings.copy) / kTera, "", ""});
    plot.series = {roof, marks};
    page.plot(render_svg(plot));
  }
  page.raw(
      "</div><div class=\"wide\"><table class=\"sortable\"><thead><tr><th>operation</th>"
      "<th>pass</th><th>type</th><th>ms</th><th>GB/s</th><th>TFLOP/s</th>"
      "<th>% of the possible</th><th>others, times as "
      "long</th><th>shapes</th></tr></thead><tbody>");
  for (const OpTime& time : times)
    page.add(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.4f}</td><td>{:.1f}</td><td>{:.3f}</td>"
        "<td>{:.0f}</td><td>{}</td><td>{}</td></tr>",
        time.op, time.pass, name(time.dtype), time.milliseconds.front().second, time.gb_per_s,
        time.tflop_per_s, 100 * time.share, others(time), html_escape(time.shapes));
  page.raw("</tbody></table></div>");
  return page.finish();
}

std::string render_csv(const std::vector<OpTime>& times) {
  std::string text = "op,shapes,pass,dtype,kernels,milliseconds,gb_per_s,tflop_per_s,share\n";
  for (const OpTime& time : times)
    for (const auto& [kernels, ms] : time.milliseconds) {
      const double scale = time.milliseconds.front().second / ms;
      text += fmt::format("{},{},{},{},{},{},{},{},{}\n", time.op, csv_field(time.shapes),
                          time.pass, name(time.dtype), kernels, ms, time.gb_per_s * scale,
                          time.tflop_per_s * scale, time.share * scale);
    }
  return text;
}

}  // namespace

void bench_ops(const Arguments& arguments) {
  Options options("bench ops",
                  "Times every operation of the test table, forward and backward, beside what "
                  "memory and arithmetic allow.");
  std::string word = "cpu", type = "auto", rows, csv, html;
  double seconds = 0.3;
  bool json = false, small = false;
  options.add("--device", word, "cpu, cuda or cuda:N");
  options.add("--rows", rows, "Only rows whose name has this in it");
  options.choice("--dtype", type, {"auto", "f32", "bf16", "both"},
                 "Element types; auto: f32, on CUDA both");
  options.add("--seconds", seconds, "For each measurement, at least three repetitions");
  options.flag("--small", small, "The small shapes of the tests instead of real ones");
  options.flag("--json", json, "Print JSON");
  options.add("--csv", csv, "Write comma-separated values to a file");
  options.add("--html", html, "Write a page with a roofline plot to a file");
  if (!options.parse(arguments)) return;
  if (!(seconds >= 0)) throw UsageError("--seconds: expected a number from 0 on");
  const Device device = use_device(word);
  std::vector<DType> dtypes;
  const bool both = type == "both" || (type == "auto" && !device.is_cpu());
  if (type != "bf16") dtypes.push_back(DType::f32);
  if (type == "bf16" || both) dtypes.push_back(DType::bf16);

  const auto chosen = [&](const OpCase& op) {
    const std::vector<Input>& inputs = small ? op.inputs : op.bench;
    return !inputs.empty() && op.name.find(rows) != std::string::npos;
  };
  const test::OpTable& table = test::op_cases();
  if (std::ranges::none_of(table, chosen))
    throw UsageError("--rows: no timed row has '{}' in its name", rows);

  Timer timer(device, seconds, !small);
  const Ceilings ceilings = measure_ceilings(timer, device, dtypes, small);
  Json about = {{"device", device_name(device)},
                {"created", utc_now()},
                {"machine", machine_description()},
                {"copy_gb_per_s", ceilings.copy / kGiga}};
#if defined(FACET_CUDA)
  if (!device.is_cpu()) about["libraries"] = cuda::vendor::description();
#endif
  for (const auto& [dtype, rate] : ceilings.products)
    about["matmul_tflop_per_s"][name(dtype)] = rate / kTera;
  if (!json) {
    fmt::print("{}\na copy moves {:.1f} GB/s", device_name(device), ceilings.copy / kGiga);
    for (const auto& [dtype, rate] : ceilings.products)
      fmt::print(", {} products {:.2f} TFLOP/s", name(dtype), rate / kTera);
    fmt::print("\n{:<24} {:<9} {:<5} {:>10} {:>9} {:>9} {:>9}  shapes\n", "operation", "pass",
               "type", "ms", "GB/s", "TFLOP/s", "possible");
  }
  std::vector<OpTime> times;
  for (const OpCase& op : table) {
    if (!chosen(op)) continue;
    const std::vector<Input>& inputs = small ? op.inputs : op.bench;
    for (const DType dtype : dtypes) {
      if (std::find(op.dtypes.begin(), op.dtypes.end(), dtype) == op.dtypes.end()) continue;
      for (const OpTime& time : time_row(op, inputs, dtype, device, timer, ceilings)) {
        times.push_back(time);
        if (!json)
          fmt::print("{:<24} {:<9} {:<5} {:>10.4f} {:>9.1f} {:>9.3f} {:>8.0f}%  {}{}{}\n", time.op,
                     time.pass, name(time.dtype), time.milliseconds.front().second, time.gb_per_s,
                     time.tflop_per_s, 100 * time.share, time.shapes,
                     time.milliseconds.size() > 1 ? "; times as long: " : "", others(time));
      }
    }
  }
  if (json) {
    about["rows"] = Json::array();
    for (const OpTime& time : times) about["rows"].push_back(time.json());
    print_json(about);
  }
  if (!csv.empty()) write_file(csv, render_csv(times));
  if (!html.empty()) write_file(html, render_page(about, ceilings, times));
}

}  // namespace facet
