// The table of operations: one OpCase a row. Everything that is checked or timed about an operation
// is derived from its row: the checks by op_runner.h, the times by `facet bench ops`. An operation
// of the backend that no row reaches fails op_table_test.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "autograd/ops.h"

namespace facet::test {

struct Input {
  enum class Kind : uint8_t { real, integer, probability };
  Shape shape;
  double low = -1.0, high = 1.0;  // integers: [low, high)
  Kind kind = Kind::real;
  bool acc = false;        // f32 beside bf16 tensors: scales, statistics, optimiser state
  bool wants_grad = true;  // reals of a differentiable row
};

inline Input real(const Shape& shape, double low = -1.0, double high = 1.0) {
  return {shape, low, high};
}
inline Input constant(const Shape& shape, double low = -1.0, double high = 1.0) {
  return {shape, low, high, Input::Kind::real, false, false};
}
inline Input acc(const Shape& shape, double low, double high, bool wants_grad = true) {
  return {shape, low, high, Input::Kind::real, true, wants_grad};
}
inline Input integers(int64_t n, int64_t low, int64_t high) {
  return {{n},  static_cast<double>(low), static_cast<double>(high), Input::Kind::integer, false,
          false};
}
inline Input probability(const Shape& shape) {
  return {shape, 0.0, 1.0, Input::Kind::probability, false, false};
}

// A call that must throw an Error whose one line starts with "[op] ".
struct ErrorCase {
  std::string op;
  std::function<void()> call;
};

// The ErrorCase of an expression.
#define FAILS(op, ...)       \
  ErrorCase {                \
    op, [=] { __VA_ARGS__; } \
  }

struct OpCase {
  using Run = std::function<VariableList(const VariableList&)>;
  using Reference = std::function<TensorList(const TensorList&)>;

  std::string name{};           // of the test: letters, digits and underscores
  std::vector<Input> inputs{};  // integers come as i64, reals in the type under test
  // Leaves its inputs unchanged. The first output is differentiated, all are compared.
  Run run{};
  // The same outputs by plain loops from f64 and i64 inputs.
  Reference reference{};
  double terms = 1;       // longest sum of the forward: f32 tolerance grows with its root
  double grad_terms = 1;  // of the backward
  bool differentiable = true;
  bool threads_agree = true;  // bit-equal whatever the number of threads
  std::vector<DType> dtypes{DType::f64, DType::f32, DType::bf16};
  std::vector<ErrorCase> errors{};
  std::vector<Input> bench{};  // inputs of the benchmark; empty: the row is not timed
  Run timed{};                 // what the benchmark runs where run() copies its inputs first
};

using OpTable = std::vector<OpCase>;

// Every row, in the order of tensor/ops.h; made once.
const OpTable& op_cases();

// One family each, in op_cases_<family>.cpp.
void add_elementwise_cases(OpTable& table);
void add_reduce_cases(OpTable& table);
void add_linear_cases(OpTable& table);
void add_conv_cases(OpTable& table);
void add_norm_cases(OpTable& table);
void add_attention_cases(OpTable& table);
void add_loss_cases(OpTable& table);
void add_shape_cases(OpTable& table);
void add_optim_cases(OpTable& table);
void add_image_cases(OpTable& table);

// Inputs as f64 and i64: reals are exact in f32, and drawn from the row's name.
TensorList draw_inputs(const OpCase& op, const std::vector<Input>& inputs);
// The same as a row's function takes them: in `dtype`, on a device, never sharing memory.
VariableList make_variables(const OpCase& op, const TensorList& inputs, DType dtype, Device device);
RandomKey key_of(const std::string& name);

// Gives the row of that name the inputs of its benchmark.
void set_bench(OpTable& table, const std::string& name, std::vector<Input> inputs);

// ---- shorthands of the rows
inline const std::vector<DType> kMasterTypes = {DType::f64, DType::f32};

// A row's function from one that makes a single output.
template <typename F>
OpCase::Run one_output(F f) {
  return [f](const VariableList& in) -> VariableList { return {f(in)}; };
}
template <typename F>
OpCase::Reference one_tensor(F f) {
  return [f](const TensorList& in) -> TensorList { return {f(in)}; };
}
// f64 output[i] = f(i)
template <typename F>
Tensor tabulate(const Shape& shape, F f) {
  Tensor out = Tensor::empty(shape, DType::f64);
  double* to = out.data<double>();
  for (int64_t i = 0; i < out.numel(); ++i) to[i] = f(i);
  return out;
}
// One output of `shape`, element by element: f(the first input, i).
template <typename F>
OpCase::Reference by_element(const Shape& shape, F f) {
  return one_tensor([=](const TensorList& in) {
    const double* const x = in[0].data<double>();
    return tabulate(shape, [&](int64_t i) { return f(x, i); });
  });
}

}  // namespace facet::test
