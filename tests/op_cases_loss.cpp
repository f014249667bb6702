#include <algorithm>
#include <cmath>

#include "tests/op_case.h"

namespace facet::test {
namespace {

double log_sum_exp(const double* row, int64_t cols) {
  const double high = *std::max_element(row, row + cols);
  double sum = 0;
  for (int64_t i = 0; i < cols; ++i) sum += std::exp(row[i] - high);
  return high + std::log(sum);
}

void add_softmax(OpTable& table, bool log, const Shape& shape, double range) {
  const int64_t cols = shape.cols();
  const std::string name = log ? "log_softmax" : "softmax";
  const Variable integer(Tensor::zeros({2, 3}, DType::i64)), scalar(Tensor::zeros({}));
  table.push_back(
      {.name = fmt::format("{}_{}_{}{}", name, shape.rows(), cols, range > 10 ? "_wide" : ""),
       .inputs = {real(shape, -range, range)},
       .run = one_output(
           [log](const VariableList& in) { return log ? log_softmax(in[0]) : softmax(in[0]); }),
       .reference = by_element(shape,
                               [=](const double* x, int64_t i) {
                                 const double v = x[i] - log_sum_exp(x + i / cols * cols, cols);
                                 return log ? v : std::exp(v);
                               }),
       .terms = static_cast<double>(cols),
       .grad_terms = static_cast<double>(cols),
       .errors = {FAILS(name, log ? log_softmax(integer) : softmax(integer)),
                  FAILS(name, log ? log_softmax(scalar) : softmax(scalar))}});
}

void add_cross_entropy(OpTable& table, int64_t rows, int64_t classes, double smoothing,
                       bool masked) {
  table.push_back(
      {.name = fmt::format("cross_entropy_{}_{}{}{}", rows, classes,
                           smoothing > 0 ? "_smoothed" : "", masked ? "_masked" : ""),
       .inputs = {real({rows, classes}, -4, 4), integers(rows, masked ? -3 : 0, classes)},
       .run = one_output([smoothing](const VariableList& in) {
         return cross_entropy(in[0], in[1].value(), smoothing);
       }),
       .reference = one_tensor([=](const TensorList& in) {
         const double* x = in[0].data<double>();
         const int64_t* label = in[1].data<int64_t>();
         double sum = 0, count = 0;
         for (int64_t r = 0; r < rows; ++r) {
           if (label[r] < 0) continue;
           ++count;
           const double lse = log_sum_exp(x + r * classes, classes);
           for (int64_t k = 0; k < classes; ++k) {
             const double target =
                 (k == label[r] ? 1 - smoothing : 0.0) + smoothing / static_cast<double>(classes);
             sum -= target * (x[r * classes + k] - lse);
           }
         }
         return tabulate({}, [=](int64_t) { return sum / count; });
       }),
       .terms = static_cast<double>(rows + classes),
       .grad_terms = static_cast<double>(classes),
       .errors = {FAILS("cross_entropy", cross_entropy(Variable(Tensor::zeros({2, 3})),
                                                       Tensor::from({int64_t{0}, int64_t{3}}))),
                  FAILS("cross_entropy", cross_entropy(Variable(Tensor::zeros({2, 3})),
                                                       Tensor::from({int64_t{-1}, int64_t{-1}}))),
                  FAILS("cross_entropy", cross_entropy(Variable(Tensor::zeros({2, 3})),
                                                       Tensor::zeros({3}, DType::i64))),
                  FAILS("cross_entropy",
                        cross_entropy(Variable(Tensor::zeros({2, 3})), Tensor::zeros({2}))),
                  FAILS("cross_entropy", cross_entropy(Variable(Tensor::zeros({2, 3})),
                                                       Tensor::zeros({2}, DType::i64), 1.0))}});
}

// Few labels, so that rows have several positives, one or none.
void add_contrastive(OpTable& table, int64_t rows, int64_t cols, int64_t classes, int64_t self,
                     bool beside) {
  std::vector<Input> inputs = {real({rows, cols}, -4, 4), integers(rows, 0, classes),
                               integers(cols, 0, classes)};
  if (beside) inputs.push_back(real({rows}, -4, 4));
  const Tensor two = Tensor::zeros({2}, DType::i64);
  const Variable square(Tensor::zeros({2, 2})), wide(Tensor::zeros({2, 3}));
  table.push_back(
      {.name = fmt::format("contrastive_loss_{}_{}_{}{}{}", rows, cols, classes,
                           self < 0 ? "" : fmt::format("_self_{}", self), beside ? "_beside" : ""),
       .inputs = inputs,
       .run = one_output([=](const VariableList& in) {
         return contrastive_loss(in[0], beside ? in[3] : Variable(), in[1].value(), in[2].value(),
                                 self);
       }),
       .reference = one_tensor([=](const TensorList& in) {
         return tabulate({rows}, [&](int64_t row) {
           const double* x = in[0].data<double>() + row * cols;
           std::vector<double> all, positives;
           for (int64_t i = 0; i < cols; ++i) {
             if (self >= 0 && i == row + self) continue;
             all.push_back(x[i]);
             if (in[2].data<int64_t>()[i] == in[1].data<int64_t>()[row]) positives.push_back(x[i]);
           }
           if (beside) {
             all.push_back(in[3].data<double>()[row]);
             positives.push_back(all.back());
           }
           if (positives.empty()) return 0.0;
           double mean = 0;
           for (const double v : positives) mean += v / static_cast<double>(positives.size());
           return log_sum_exp(all.data(), static_cast<int64_t>(all.size())) - mean;
         });
       }),
       .terms = static_cast<double>(cols),
       .grad_terms = static_cast<double>(cols),
       .errors = {FAILS("contrastive_loss", contrastive_loss(wide, {}, two, two)),
                  FAILS("contrastive_loss", contrastive_loss(square, {}, two, two, 1)),
                  FAILS("contrastive_loss",
                        contrastive_loss(square, Variable(Tensor::zeros({3})), two, two))}});
}

void add_soft_cross_entropy(OpTable& table, int64_t rows, int64_t classes, const Input& targets) {
  const bool normalised = targets.kind == Input::Kind::probability;
  table.push_back(
      {.name = fmt::format("soft_cross_entropy_{}_{}{}", rows, classes,
                           normalised ? "" : "_unnormalised"),
       .inputs = {real({rows, classes}, -4, 4), targets},
       .run = one_output(
           [](const VariableList& in) { return soft_cross_entropy(in[0], in[1].value()); }),
       .reference = one_tensor([=](const TensorList& in) {
         const double *x = in[0].data<double>(), *t = in[1].data<double>();
         double sum = 0;
         for (int64_t r = 0; r < rows; ++r) {
           const double lse = log_sum_exp(x + r * classes, classes);
           for (int64_t k = 0; k < classes; ++k)
             sum -= t[r * classes + k] * (x[r * classes + k] - lse);
         }
         return tabulate({}, [=](int64_t) { return sum / static_cast<double>(rows); });
       }),
       .terms = static_cast<double>(rows + classes),
       .grad_terms = static_cast<double>(classes),
       .errors = {
           FAILS("soft_cross_entropy",
                 soft_cross_entropy(Variable(Tensor::zeros({2, 3})), Tensor::zeros({2, 4}))),
           FAILS("soft_cross_entropy", soft_cross_entropy(Variable(Tensor::zeros({2, 3})),
                                                          Tensor::zeros({2, 3}, DType::bf16)))}});
}

// Rows that share targets, and a temperature.
void add_shared_soft_cross_entropy(OpTable& table, int64_t rows, int64_t targets, int64_t classes) {
  constexpr double kScale = 2.5;
  table.push_back(
      {.name = fmt::format("soft_cross_entropy_{}_to_{}_{}", rows, targets, classes),
       .inputs = {real({rows, classes}, -2, 2), probability({targets, classes}),
                  integers(rows, 0, targets)},
       .run = one_output([](const VariableList& in) {
         return soft_cross_entropy(in[0], in[1].value(), kScale, in[2].value());
       }),
       .reference = one_tensor([=](const TensorList& in) {
         const Tensor scaled = ops::affine(kScale, in[0], 0.0);
         const double *x = scaled.data<double>(), *t = in[1].data<double>();
         double sum = 0;
         for (int64_t r = 0; r < rows; ++r) {
           const double lse = log_sum_exp(x + r * classes, classes);
           const double* const target = t + in[2].data<int64_t>()[r] * classes;
           for (int64_t k = 0; k < classes; ++k) sum -= target[k] * (x[r * classes + k] - lse);
         }
         return tabulate({}, [=](int64_t) { return sum / static_cast<double>(rows); });
       }),
       .terms = static_cast<double>(rows + classes),
       .grad_terms = static_cast<double>(classes),
       .errors = {FAILS("soft_cross_entropy", soft_cross_entropy(Variable(Tensor::zeros({2, 3})),
                                                                 Tensor::zeros({2, 3}), -1)),
                  FAILS("soft_cross_entropy",
                        soft_cross_entropy(Variable(Tensor::zeros({2, 3})), Tensor::zeros({1, 3}),
                                           1, Tensor::from<int64_t>({0, 1})))}});
}

}  // namespace

void add_loss_cases(OpTable& table) {
  add_contrastive(table, 1, 1, 1, -1, true);
  add_contrastive(table, 7, 31, 3, -1, false);
  add_contrastive(table, 8, 8, 4, 0, false);
  add_contrastive(table, 4, 33, 20, 12, false);
  add_contrastive(table, 5, 1025, 2000, -1, true);
  set_bench(table, "contrastive_loss_8_8_4_self_0",
            {real({512, 512}, -4, 4), integers(512, 0, 256), integers(512, 0, 256)});
  for (const bool log : {false, true}) {
    for (const int64_t cols : {1, 7, 31, 33, 1023, 1025}) add_softmax(table, log, {5, cols}, 4);
    add_softmax(table, log, {2051, 33}, 4);
    add_softmax(table, log, {2, 3, 7}, 80);  // exp would overflow f32 without the shift
  }
  for (const double smoothing : {0.0, 0.1}) {
    add_cross_entropy(table, 1, 7, smoothing, false);
    add_cross_entropy(table, 31, 33, smoothing, false);
    add_cross_entropy(table, 33, 10, smoothing, true);
    add_cross_entropy(table, 67, 1025, smoothing, false);
  }
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {7, 31}, {67, 1025}, {5, 33}}) {
    add_soft_cross_entropy(table, rows, cols, probability({rows, cols}));
    add_soft_cross_entropy(table, rows, cols, constant({rows, cols}, -0.5, 1));
  }
  add_shared_soft_cross_entropy(table, 33, 7, 31);
  add_shared_soft_cross_entropy(table, 8, 3, 1025);
  set_bench(table, "soft_cross_entropy_8_to_3_1025",
            {real({640, 8192}), probability({192, 8192}), integers(640, 0, 192)});
  set_bench(table, "softmax_5_1023", {real({4096, 1000})});
  set_bench(table, "log_softmax_5_1023", {real({4096, 1000})});
  set_bench(table, "cross_entropy_31_33", {real({256, 65537}), integers(256, 0, 65537)});
  set_bench(table, "soft_cross_entropy_67_1025", {real({256, 1000}), probability({256, 1000})});
}

}  // namespace facet::test
