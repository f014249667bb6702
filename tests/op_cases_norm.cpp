#include <algorithm>
#include <cmath>

#include "tests/op_case.h"

namespace facet::test {
namespace {

// relu?(gamma (x - mean) / sqrt(var + eps) + beta + residual?), and the running statistics after.
TensorList batch_norm_reference(const TensorList& in, bool training, const BatchNormArgs& args) {
  const int64_t rows = in[0].rows(), c = in[0].cols();
  const double* x = in[0].data<double>();
  const double *gamma = in[1].data<double>(), *beta = in[2].data<double>();
  Tensor running_mean = in[3].clone(), running_var = in[4].clone();
  std::vector<double> mean, var;
  for (int64_t k = 0; k < c; ++k) {
    double& kept_mean = running_mean.data<double>()[k];
    double& kept_var = running_var.data<double>()[k];
    mean.push_back(kept_mean);
    var.push_back(kept_var);
    if (!training) continue;
    double sum = 0, squares = 0;
    for (int64_t r = 0; r < rows; ++r) sum += x[r * c + k];
    mean.back() = sum / static_cast<double>(rows);
    for (int64_t r = 0; r < rows; ++r) squares += std::pow(x[r * c + k] - mean.back(), 2);
    var.back() = squares / static_cast<double>(rows);
    if (!args.update_running) continue;
    kept_mean += args.momentum * (mean.back() - kept_mean);
    kept_var += args.momentum * (squares / static_cast<double>(rows - 1) - kept_var);
  }
  const double* residual = in.size() > 5 ? in[5].data<double>() : nullptr;
  Tensor y = tabulate(in[0].shape(), [&](int64_t i) {
    const auto k = static_cast<size_t>(i % c);
    double v = gamma[k] * (x[i] - mean[k]) / std::sqrt(var[k] + args.eps) + beta[k];
    if (residual) v += residual[i];
    return args.relu ? std::max(v, 0.0) : v;
  });
  return {y, running_mean, running_var};
}

void add_batch_norm(OpTable& table, const std::string& name, const Shape& shape, bool training,
                    bool relu, bool residual, BatchNormArgs args = {}) {
  args.relu = relu;
  const int64_t c = shape.cols();
  OpCase op{
      .name = fmt::format("batch_norm_{}{}{}_{}", training ? "train" : "eval", relu ? "_relu" : "",
                          residual ? "_residual" : "", name),
      // not centred on 0, so that a variance by E[x^2] - E[x]^2 shows
      .inputs = {real(shape, 1, 4), acc({c}, 0.5, 1.5), acc({c}, -1, 1), acc({c}, 2, 3, false),
                 acc({c}, 0.5, 2, false)},
      .run = [=](const VariableList& in) -> VariableList {
        Tensor mean = in[3].value().clone(), var = in[4].value().clone();
        Variable y = batch_norm(in[0], in[1], in[2], mean, var, training, args,
                                in.size() > 5 ? in[5] : Variable());
        return {y, Variable(mean), Variable(var)};
      },
      .reference = [=](const TensorList& in) { return batch_norm_reference(in, training, args); },
      .terms = static_cast<double>(shape.rows()),
      .grad_terms = static_cast<double>(shape.rows()),
  };
  if (residual) op.inputs.push_back(real(shape, -1, 1));
  if (name == "large") {
    const Shape big{64, 56, 56, 128};  // no cache holds it
    op.bench = op.inputs;
    for (Input& input : op.bench) input.shape = input.shape.rank() == 1 ? Shape{128} : big;
  }
  table.push_back(op);
}

std::vector<ErrorCase> batch_norm_errors() {
  const auto call = [](const Shape& x, int64_t c, bool training, const Shape& residual = {},
                       DType dtype = DType::f32) {
    Tensor mean = Tensor::zeros({c}), var = Tensor::full({c}, 1.0);
    const Variable scale(Tensor::full({c}, 1.0, dtype)), shift(Tensor::zeros({c}));
    batch_norm(Variable(Tensor::zeros(x)), scale, shift, mean, var, training, {},
               residual.rank() ? Variable(Tensor::zeros(residual)) : Variable());
  };
  return {FAILS("batch_norm", call({8, 4}, 5, true)),
          FAILS("batch_norm", call({8, 4}, 5, false)),
          FAILS("batch_norm", call({1, 4}, 4, true)),  // one value a channel
          FAILS("batch_norm", call({4}, 4, true)),
          FAILS("batch_norm", call({8, 4}, 4, true, {8, 3})),
          FAILS("batch_norm", call({8, 4}, 4, true, {}, DType::bf16))};
}

void add_l2_normalize(OpTable& table, int64_t rows, int64_t cols, double eps) {
  const Shape shape{rows, cols};
  table.push_back(
      {.name = fmt::format("l2_normalize_{}_{}{}", rows, cols, eps > 1 ? "_below_eps" : ""),
       .inputs = {real(shape)},
       .run = one_output([eps](const VariableList& in) { return l2_normalize(in[0], eps); }),
       .reference = by_element(shape,
                               [=](const double* x, int64_t i) {
                                 double squares = 0;
                                 for (int64_t k = 0; k < cols; ++k)
                                   squares += std::pow(x[i / cols * cols + k], 2);
                                 return x[i] / std::max(std::sqrt(squares), eps);
                               }),
       .terms = static_cast<double>(cols),
       .grad_terms = static_cast<double>(cols),
       .errors = {
           FAILS("l2_normalize", l2_normalize(Variable(Tensor::zeros({2, 3}, DType::i64))))}});
}

}  // namespace

void add_norm_cases(OpTable& table) {
  for (const bool training : {true, false})
    for (const bool relu : {false, true})
      for (const bool residual : {false, true}) {
        add_batch_norm(table, "odd", {2, 3, 5, 7}, training, relu, residual);
        add_batch_norm(table, "large", {2, 40, 40, 48}, training, relu, residual);
      }
  add_batch_norm(table, "matrix_33_31", {33, 31}, true, true, false);
  add_batch_norm(table, "one_channel", {1025, 1}, true, true, true);
  add_batch_norm(table, "wide", {7, 1025}, true, false, false);
  add_batch_norm(table, "wider_than_a_block", {7, 2056}, true, true, true);
  add_batch_norm(table, "many_rows", {4, 33, 33, 3}, true, true, false);
  add_batch_norm(table, "frozen_running", {31, 7}, true, false, false, {.update_running = false});
  add_batch_norm(table, "other_eps_and_momentum", {31, 7}, true, false, false,
                 {.eps = 1e-2, .momentum = 0.25});
  table.back().errors = batch_norm_errors();

  for (const int64_t cols : {1, 7, 33, 1023, 1025}) add_l2_normalize(table, 5, cols, 1e-12);
  add_l2_normalize(table, 515, 128, 1e-12);
  add_l2_normalize(table, 31, 7, 50.0);
  set_bench(table, "l2_normalize_515_128", {real({4096, 128})});
}

}  // namespace facet::test
