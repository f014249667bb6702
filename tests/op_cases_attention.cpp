// What a vision transformer adds: layer normalisation and attention.
#include <algorithm>
#include <cmath>

#include "tests/op_case.h"

namespace facet::test {
namespace {

constexpr double kEps = 1e-6;

Tensor reference_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta) {
  const int64_t cols = x.cols();
  return tabulate(x.shape(), [&](int64_t i) {
    const double* row = x.data<double>() + i / cols * cols;
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < cols; ++c) mean += row[c] / static_cast<double>(cols);
    for (int64_t c = 0; c < cols; ++c)
      variance += (row[c] - mean) * (row[c] - mean) / static_cast<double>(cols);
    return gamma.data<double>()[i % cols] * (row[i % cols] - mean) / std::sqrt(variance + kEps) +
           beta.data<double>()[i % cols];
  });
}

// offset: where all values lie, far from 0 against their spread.
void add_layer_norm_case(OpTable& table, const Shape& shape, bool residual, double offset = 0) {
  const int64_t cols = shape.cols();
  std::vector<Input> inputs = {real(shape, offset - 1, offset + 1), acc({cols}, .5, 1.5),
                               acc({cols}, -1, 1)};
  if (residual) inputs.push_back(real(shape));
  OpCase row{.name = fmt::format("{}layer_norm_{}_{}{}", residual ? "add_" : "", shape.rows(), cols,
                                 offset > 0 ? "_far" : ""),
             .inputs = inputs};
  row.run = [residual](const VariableList& in) -> VariableList {
    if (!residual) return {layer_norm(in[0], in[1], in[2], kEps)};
    const AddedNorm r = add_layer_norm(in[0], in[3], in[1], in[2], kEps);
    // A sum of both, so that gradients come from both sides.
    return {r.y + r.sum, r.sum};
  };
  row.reference = [residual](const TensorList& in) -> TensorList {
    if (!residual) return {reference_norm(in[0], in[1], in[2])};
    const Tensor sum = ops::add(in[0], in[3]);
    return {ops::add(reference_norm(sum, in[1], in[2]), sum), sum};
  };
  row.terms = static_cast<double>(cols);
  row.grad_terms = static_cast<double>(cols + shape.rows());
  // bf16 cannot hold far values apart, and rounds the sum once more than the naive composition.
  if (offset > 0 || residual) row.dtypes = {DType::f64, DType::f32};
  const auto zeros = [](const Shape& of) { return Variable(Tensor::zeros(of)); };
  row.errors = {
      FAILS("layer_norm", layer_norm(zeros({2, 4}), zeros({3}), zeros({3}))),
      FAILS("layer_norm", add_layer_norm(zeros({2, 4}), zeros({2, 3}), zeros({4}), zeros({4})))};
  table.push_back(std::move(row));
}

// skipped: elements before the first one, so that rows need not begin at multiples of 16 bytes.
void add_attention_case(OpTable& table, int64_t b, int64_t t, int64_t h, int64_t d,
                        double range = 1, int64_t skipped = 0) {
  const Shape shape{b, t, 3, h, d};
  table.push_back(
      {.name = fmt::format("attention_{}_{}_{}_{}{}{}", b, t, h, d, range > 1 ? "_wide" : "",
                           skipped > 0 ? "_unaligned" : ""),
       .inputs = {real(skipped > 0 ? Shape{skipped + shape.numel()} : shape, -range, range)},
       .run = one_output([=](const VariableList& in) {
         if (skipped == 0) return attention(in[0]);
         return attention(reshape(narrow(in[0], skipped, shape.numel()), shape));
       }),
       .reference = one_tensor([=](const TensorList& in) {
         const double* x = in[0].data<double>() + skipped;
         const auto at = [=](int64_t image, int64_t token, int64_t part, int64_t head) {
           return (((image * t + token) * 3 + part) * h + head) * d;
         };
         return tabulate({b, t, h, d}, [=](int64_t i) {
           const int64_t c = i % d, head = i / d % h, query = i / (d * h) % t,
                         image = i / (d * h * t);
           std::vector<double> scores;
           for (int64_t key = 0; key < t; ++key) {
             double score = 0;
             for (int64_t k = 0; k < d; ++k)
               score += x[at(image, query, 0, head) + k] * x[at(image, key, 1, head) + k];
             scores.push_back(score / std::sqrt(static_cast<double>(d)));
           }
           const double high = *std::max_element(scores.begin(), scores.end());
           double sum = 0, out = 0;
           for (int64_t key = 0; key < t; ++key) {
             const double p = std::exp(scores[static_cast<size_t>(key)] - high);
             sum += p;
             out += p * x[at(image, key, 2, head) + c];
           }
           return out / sum;
         });
       }),
       .terms = static_cast<double>(t + d),
       .grad_terms = static_cast<double>(t + d),
       .errors = {FAILS("attention", attention(Variable(Tensor::zeros({2, 3, 2, 4, 4})))),
                  FAILS("attention", attention(Variable(Tensor::zeros({2, 3, 12}))))}});
}

}  // namespace

void add_attention_cases(OpTable& table) {
  for (const Shape& shape :
       {Shape{1, 3}, Shape{7, 31}, Shape{2, 5, 33}, Shape{67, 8}, Shape{3, 1025}})
    add_layer_norm_case(table, shape, false);
  for (const int64_t cols : {776, 1032})
    add_layer_norm_case(table, {3, cols}, false);  // 8 together
  add_layer_norm_case(table, {7, 31}, true);
  add_layer_norm_case(table, {2, 3, 64}, true);
  add_layer_norm_case(table, {5, 64}, false, 30);
  set_bench(table, "layer_norm_7_31",
            {real({64 * 197, 768}), acc({768}, .5, 1.5), acc({768}, -1, 1)});
  set_bench(table, "add_layer_norm_7_31",
            {real({64 * 197, 768}), acc({768}, .5, 1.5), acc({768}, -1, 1), real({64 * 197, 768})});
  add_attention_case(table, 1, 1, 1, 8);
  add_attention_case(table, 2, 7, 3, 8);
  add_attention_case(table, 1, 33, 2, 16, 3);
  add_attention_case(table, 1, 65, 2, 64);
  add_attention_case(table, 1, 150, 2, 32, 2);  // three tiles of queries, and of keys
  add_attention_case(table, 2, 64, 1, 64);
  add_attention_case(table, 1, 70, 2, 48);  // heads that fill no tile
  add_attention_case(table, 1, 67, 2, 72);
  add_attention_case(table, 1, 21, 2, 128);
  add_attention_case(table, 2, 31, 1, 5);
  add_attention_case(table, 2, 9, 1, 16, 1, 1);
  add_attention_case(table, 1, 3, 1, 130);  // wider than the tiles take
  set_bench(table, "attention_2_7_3_8", {real({32, 197, 3, 12, 64})});
  set_bench(table, "attention_1_65_2_64", {real({8, 50, 3, 12, 64})});
}

}  // namespace facet::test
