#include "tests/op_runner.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/parallel.h"
#include "tests/gradcheck.h"

#if defined(FACET_CUDA)
#include "cuda/runtime.h"
#include "cuda/vendor/library.h"
#endif
#if defined(FACET_CUDA_EMULATED)
#include "cuda/emu/runtime.h"
#endif

namespace facet::test {
namespace {

bool has(const OpCase& op, DType dtype) {
  return std::find(op.dtypes.begin(), op.dtypes.end(), dtype) != op.dtypes.end();
}

// |got - want| <= tolerance * (|want| + min(1, largest |want|)), the last term 1 where everything
// is 0 by cancellation; integers exactly.
std::string compare(const Tensor& got, const Tensor& want, double tolerance,
                    const std::string& what) {
  if (got.shape() != want.shape())
    return fmt::format("{}: expected {}, got {}", what, want.shape(), got.shape());
  const std::vector<double> a = got.to_vector<double>(), b = want.to_vector<double>();
  double largest = 0;
  for (const double v : b)
    if (std::isfinite(v)) largest = std::max(largest, std::fabs(v));
  const double floor = largest > 0 ? std::min(1.0, largest) : 1.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double allowed = is_floating(got.dtype()) ? tolerance * (std::fabs(b[i]) + floor) : 0.0;
    if (a[i] == b[i] || std::fabs(a[i] - b[i]) <= allowed) continue;
    return fmt::format("{} at {}: expected {:.12g}, got {:.12g} (allowed {:.3g})", what, i, b[i],
                       a[i], allowed);
  }
  return "";
}

std::string compare_lists(const TensorList& got, const TensorList& want, double tolerance,
                          const std::string& what) {
  if (got.size() != want.size())
    return fmt::format("{}s: expected {}, got {}", what, want.size(), got.size());
  for (size_t i = 0; i < got.size(); ++i)
    if (auto failure = compare(got[i], want[i], tolerance, fmt::format("{} {}", what, i));
        !failure.empty())
      return failure;
  return "";
}

std::string compare_results(const OpCase& op, const OpResult& got, const OpResult& want,
                            double tolerance) {
  auto failure =
      compare_lists(got.outputs, want.outputs, tolerance * std::sqrt(op.terms), "output");
  if (failure.empty())
    failure = compare_lists(got.gradients, want.gradients, tolerance * std::sqrt(op.grad_terms),
                            "gradient");
  return failure;
}

bool same_bits(const TensorList& a, const TensorList& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Tensor& x, const Tensor& y) {
    return x.bytes() == y.bytes() && std::memcmp(x.raw(), y.raw(), x.bytes()) == 0;
  });
}

constexpr double kTolerance64 = 1e-10, kTolerance32 = 1e-5;

std::string check_f64(const OpCase& op) {
  const TensorList inputs = draw_inputs(op, op.inputs);
  return compare_lists(evaluate(op, inputs, DType::f64).outputs, op.reference(inputs),
                       kTolerance64 * std::sqrt(op.terms), "output");
}

std::string check_f32(const OpCase& op) {
  const TensorList inputs = draw_inputs(op, op.inputs);
  OpResult want = evaluate(op, inputs, DType::f64);  // its gradients are checked by differences
  want.outputs = op.reference(inputs);
  return compare_results(op, evaluate(op, inputs, DType::f32), want, kTolerance32);
}

// The naive bf16 composition rounds the inputs, computes in f32 and rounds the result. Ours may be
// off by twice its error, in the root mean square and in the largest entry.
std::string check_bf16(const OpCase& op) {
  if (!has(op, DType::bf16)) return "";
  const TensorList inputs = draw_inputs(op, op.inputs);
  TensorList rounded = inputs;
  for (size_t i = 0; i < rounded.size(); ++i)
    if (op.inputs[i].kind != Input::Kind::integer && !op.inputs[i].acc)
      rounded[i] = rounded[i].cast(DType::bf16).cast(DType::f64);
  const OpResult truth = evaluate(op, inputs, DType::f64);
  const OpResult naive = evaluate(op, rounded, DType::f32);
  const OpResult got = evaluate(op, inputs, DType::bf16);
  const auto compare_one = [&](const Tensor& ours, const Tensor& plain, const Tensor& exact,
                               bool round, const std::string& what) -> std::string {
    if (!is_floating(ours.dtype())) return compare(ours, plain, 0.0, what);
    const std::vector<double> a = ours.to_vector<double>(), c = exact.to_vector<double>();
    const std::vector<double> b = (round ? plain.cast(DType::bf16) : plain).to_vector<double>();
    double ours_squares = 0, naive_squares = 0, ours_largest = 0, naive_largest = 0, scale = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const double e = a[i] == c[i] ? 0.0 : std::fabs(a[i] - c[i]);
      const double n = b[i] == c[i] ? 0.0 : std::fabs(b[i] - c[i]);
      if (!(e == e)) return fmt::format("{} at {}: expected {}, got {}", what, i, c[i], a[i]);
      ours_squares += e * e;
      naive_squares += n * n;
      ours_largest = std::max(ours_largest, e);
      naive_largest = std::max(naive_largest, n);
      scale = std::max(scale, std::fabs(c[i]));
    }
    const double rms = std::sqrt(ours_squares / static_cast<double>(a.size()));
    const double naive_rms = std::sqrt(naive_squares / static_cast<double>(a.size()));
    // The f32 rounding of both sides is noise.
    const double noise = kTolerance32 * scale;
    if (rms <= 2 * naive_rms + noise && ours_largest <= 2 * naive_largest + noise) return "";
    return fmt::format("{}: error {:.3g} (largest {:.3g}), naive bf16 {:.3g} (largest {:.3g})",
                       what, rms, ours_largest, naive_rms, naive_largest);
  };
  for (size_t i = 0; i < got.outputs.size(); ++i)
    if (auto failure =
            compare_one(got.outputs[i], naive.outputs[i], truth.outputs[i],
                        got.outputs[i].dtype() == DType::bf16, fmt::format("output {}", i));
        !failure.empty())
      return failure;
  size_t g = 0;
  for (size_t i = 0; i < op.inputs.size() && op.differentiable; ++i) {
    const Input& input = op.inputs[i];
    if (input.kind == Input::Kind::integer || !input.wants_grad) continue;
    if (auto failure = compare_one(got.gradients[g], naive.gradients[g], truth.gradients[g],
                                   !input.acc, fmt::format("gradient {}", g));
        !failure.empty())
      return failure;
    ++g;
  }
  return "";
}

std::string check_gradient(const OpCase& op) {
  if (!op.differentiable) return "";
  const VariableList leaves = make_variables(op, draw_inputs(op, op.inputs), DType::f64, Device{});
  return gradcheck([&] { return op.run(leaves)[0]; }, leaves);
}

std::string check_repeat(const OpCase& op) {
  const TensorList inputs = draw_inputs(op, op.inputs);
  for (const DType dtype : op.dtypes) {
    const OpResult first = evaluate(op, inputs, dtype);
    const OpResult second = evaluate(op, inputs, dtype);
    if (!same_bits(first.outputs, second.outputs) || !same_bits(first.gradients, second.gradients))
      return fmt::format("two runs in {} differ", facet::name(dtype));
    if (!op.threads_agree) continue;
    const int before = num_threads();
    set_num_threads(before == 1 ? 2 : 1);
    const OpResult other = evaluate(op, inputs, dtype);
    set_num_threads(before);
    if (!same_bits(first.outputs, other.outputs) || !same_bits(first.gradients, other.gradients))
      return fmt::format("one and several threads differ in {}", facet::name(dtype));
  }
  return "";
}

std::string check_errors(const OpCase& op) {
  for (size_t i = 0; i < op.errors.size(); ++i) {
    const std::string tag = "[" + op.errors[i].op + "] ";
    try {
      op.errors[i].call();
      return fmt::format("error input {} was accepted", i);
    } catch (const Error& e) {
      const std::string text = e.what();
      if (text.rfind(tag, 0) != 0 || text.find('\n') != std::string::npos)
        return fmt::format("error input {}: expected one line from {}, got: {}", i, tag, text);
    }
  }
  return "";
}

// f() in every way in which a device may compute: the emulator's schedules, the vendors' libraries,
// tuned kernels, as for a device that few blocks fill, too, and their naive twins, as far as f has
// that choice. Schedules must agree bit for bit.
#if defined(FACET_CUDA)
template <typename F>
std::string in_every_way(const F& f) {
  using cuda::KernelChoice;
  struct Way {
    KernelChoice choice;
    int64_t enough_blocks;
    const char* name;
  };
  const KernelChoice before = cuda::kernel_choice();
  const int64_t choices = cuda::kernel_choices(), calls = cuda::vendor::calls();
  const int64_t asked = cuda::enough_blocks_asked();
  std::string failure;
  for (const auto& [choice, blocks, name] :
       {Way{KernelChoice::vendor, cuda::kEnoughBlocks, "vendor"},
        Way{KernelChoice::tuned, cuda::kEnoughBlocks, "tuned"},
        Way{KernelChoice::tuned, 4, "tuned for a small device"},
        Way{KernelChoice::naive, cuda::kEnoughBlocks, "naive"}}) {
    const bool small = blocks != cuda::kEnoughBlocks;
    if (choice == KernelChoice::tuned && !small && cuda::vendor::calls() == calls)
      continue;  // was just run
    if (choice == KernelChoice::naive && cuda::kernel_choices() == choices) break;
    if (small && cuda::enough_blocks_asked() == asked) continue;
    cuda::set_kernel_choice(choice);
    cuda::set_enough_blocks(blocks);
    OpResult first;
#if defined(FACET_CUDA_EMULATED)
    for (const char* schedule : {"greedy", "reverse"}) {
      emu::set_schedule(emu::Schedule::parse(schedule));
#else
    for (const char* schedule : {"first", "second"}) {
#endif
      OpResult result;
      failure = f(result);
      if (failure.empty() && !first.outputs.empty() &&
          !(same_bits(first.outputs, result.outputs) &&
            same_bits(first.gradients, result.gradients)))
        failure = "differs from another schedule or run";
      if (!failure.empty()) {
        failure = fmt::format("{}, {} kernels: {}", schedule, name, failure);
        break;
      }
      first = result;
    }
    if (!failure.empty()) break;
  }
  // A library may refuse what it has no kernel for, but not because it was asked for nonsense.
  for (const char* nonsense : {"INVALID_VALUE", "BAD_PARAM"})
    if (const std::string refusal = cuda::vendor::last_refusal();
        refusal.find(nonsense) != std::string::npos)
      failure += refusal;
#if defined(FACET_CUDA_EMULATED)
  emu::set_schedule({});
#endif
  cuda::set_kernel_choice(before);
  cuda::set_enough_blocks(cuda::kEnoughBlocks);
  return failure;
}
#endif

std::string check_devices(const OpCase& op) {
#if defined(FACET_CUDA)
  const TensorList inputs = draw_inputs(op, op.inputs);
  for (const Device device : other_devices())
    for (const DType dtype : op.dtypes) {
      const OpResult want = evaluate(op, inputs, dtype);
      // bf16 results may round to neighbours
      const double tolerance = dtype == DType::f64    ? kTolerance64
                               : dtype == DType::bf16 ? 0x1p-7
                                                      : kTolerance32;
      const std::string failure = in_every_way([&](OpResult& got) {
        got = evaluate(op, inputs, dtype, device);
        return compare_results(op, got, want, tolerance);
      });
      if (!failure.empty())
        return fmt::format("{} {}: {}", device.str(), facet::name(dtype), failure);
    }
#else
  static_cast<void>(op);
#endif
  return "";
}

}  // namespace

OpResult evaluate(const OpCase& op, const TensorList& inputs, DType dtype, Device device) {
  const VariableList leaves = make_variables(op, inputs, dtype, device);
  const VariableList outputs = op.run(leaves);
  OpResult result;
  for (const Variable& output : outputs) result.outputs.push_back(output.value().to(Device{}));
  if (!op.differentiable) return result;
  const Tensor weights = exact_weights(outputs[0].shape(), key_of(op.name).child(1000));
  backward(outputs[0], weights.cast(outputs[0].dtype()).to(device));
  for (const Variable& leaf : leaves)
    if (leaf.requires_grad()) {
      FACET_CHECK(leaf.grad().defined(), op.name.c_str(), "an input got no gradient");
      result.gradients.push_back(leaf.grad().to(Device{}));
    }
  return result;
}

std::vector<Device> other_devices() {
#if defined(FACET_CUDA)
  cuda::install();
  return {{DeviceType::cuda, 0}};
#else
  return {};
#endif
}

const std::vector<OpCheck>& op_checks() {
  static const std::vector<OpCheck> checks = {
      {"f64 against the reference", check_f64},
      {"f32 against the reference", check_f32},
      {"bf16", check_bf16},
      {"gradient", check_gradient},
      {"repeatability", check_repeat},
      {"error inputs", check_errors},
      {"other devices", check_devices},
  };
  return checks;
}

std::string run_op_check(const OpCheck& check, const OpCase& op) {
  const int64_t before = overwritten_guards();
  guard_storage(true);
  std::string failure;
  try {
    failure = check.run(op);
  } catch (const std::exception& e) {
    failure = e.what();
  }
  guard_storage(false);
  if (overwritten_guards() != before) failure += " wrote outside a tensor";
  return failure;
}

}  // namespace facet::test
