#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/op_case.h"

namespace facet::test {
namespace {

double reduce_reference(ReduceOp op, const double* x, int64_t n, int64_t stride) {
  double sum = 0, high = -std::numeric_limits<double>::infinity(), low = -high, squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double v = x[i * stride];
    sum += v;
    squares += v * v;
    high = std::max(high, v);
    low = std::min(low, v);
  }
  switch (op) {
    case ReduceOp::sum: return sum;
    case ReduceOp::mean: return sum / static_cast<double>(n);
    case ReduceOp::max: return high;
    case ReduceOp::min: return low;
    case ReduceOp::sum_squares: return squares;
  }
  return 0;
}

struct Axes {
  const char* name;
  Shape shape;
  int first, last;  // reduced together; first < 0: all
};

OpCase reduce_case(const std::string& name, ReduceOp op, const Axes& axes) {
  const int first = std::max(axes.first, 0);
  const int last = axes.first < 0 ? axes.shape.rank() - 1 : axes.last;
  int64_t n = 1, inner = 1;
  Shape out;
  for (int d = 0; d < axes.shape.rank(); ++d) {
    if (d < first || d > last) out.push_back(axes.shape[d]);
    if (d >= first && d <= last) n *= axes.shape[d];
    if (d > last) inner *= axes.shape[d];
  }
  return {.name = fmt::format("{}_{}", name, axes.name),
          .inputs = {real(axes.shape, -1, 2)},
          .reference = by_element(out,
                                  [=](const double* x, int64_t i) {
                                    return reduce_reference(
                                        op, x + i / inner * n * inner + i % inner, n, inner);
                                  }),
          .terms = op == ReduceOp::max || op == ReduceOp::min ? 1.0 : static_cast<double>(n)};
}

const Axes kAxes[] = {
    {"all_1", {1}, -1, 0},
    {"all_31", {31}, -1, 0},
    {"all_1025", {1025}, -1, 0},
    {"all_blocks", {17, 4099}, -1, 0},
    {"first", {7, 5, 9}, 0, 0},
    {"middle", {7, 33, 5}, 1, 1},
    {"last", {7, 5, 31}, 2, 2},
    {"long_rows", {5, 16411}, 1, 1},
    {"many_rows", {1025, 3}, 1, 1},
    {"columns", {2051, 33}, 0, 0},
    {"wide_columns", {300, 1100}, 0, 0},
};

void add_reductions(OpTable& table) {
  const struct {
    const char* name;
    ReduceOp op;
  } all[] = {{"sum", ReduceOp::sum},
             {"mean", ReduceOp::mean},
             {"max", ReduceOp::max},
             {"min", ReduceOp::min},
             {"sum_squares", ReduceOp::sum_squares}};
  for (const auto& [name, kind] : all) {
    const ReduceOp op = kind;
    for (const Axes& axes : kAxes) {
      OpCase row = reduce_case(name, op, axes);
      row.differentiable = op == ReduceOp::sum || op == ReduceOp::mean;
      const int axis = axes.first;
      row.run = one_output([=](const VariableList& in) {
        const Variable& x = in[0];
        if (op == ReduceOp::sum) return axis < 0 ? sum(x) : sum(x, axis);
        if (op == ReduceOp::mean) return axis < 0 ? mean(x) : mean(x, axis - x.value().rank());
        return Variable(axis < 0 ? ops::reduce(op, x.value()) : ops::reduce(op, x.value(), axis));
      });
      if (axis == 1)
        row.errors = {FAILS("reduce", ops::reduce(op, Tensor::zeros({2, 3}), 2)),
                      FAILS("reduce", ops::reduce(op, Tensor::zeros({2, 3}), -3)),
                      FAILS("reduce", ops::reduce(op, Tensor::zeros({2, 3}, DType::i64), 1))};
      if (std::string(axes.name) == "columns") row.bench = {real({8192, 512})};
      table.push_back(row);
    }
    OpCase together = reduce_case(name, op, {"adjacent_axes", {5, 7, 3, 4}, 1, 2});
    together.run = one_output([op = op](const VariableList& in) {
      return Variable(ops::reduce(op, in[0].value(), 1, 2));
    });
    together.differentiable = false;
    table.push_back(together);
  }
  table.back().errors = {
      FAILS("reduce", ops::reduce(ReduceOp::max, Tensor::zeros({0, 3}), 0)),
      FAILS("reduce", ops::reduce(ReduceOp::sum, Tensor::zeros({2, 3, 4}), 2, 1))};
}

void add_broadcasts(OpTable& table) {
  // sum_to (5, 7, 3, 4) -> (7, 1, 4): over a leading and an inner axis
  table.push_back({.name = "sum_to",
                   .inputs = {real({5, 7, 3, 4})},
                   .run = one_output([](const VariableList& in) {
                     return Variable(ops::sum_to(in[0].value(), {7, 1, 4}));
                   }),
                   .reference = by_element({7, 1, 4},
                                           [=](const double* x, int64_t i) {
                                             double sum = 0;
                                             for (int64_t n = 0; n < 5; ++n)
                                               for (int64_t k = 0; k < 3; ++k)
                                                 sum += x[((n * 7 + i / 4) * 3 + k) * 4 + i % 4];
                                             return sum;
                                           }),
                   .terms = 15,
                   .differentiable = false,
                   .errors = {FAILS("sum_to", ops::sum_to(Tensor::zeros({2, 3}), {4}))}});
  table.push_back(
      {.name = "broadcast_to",
       .inputs = {real({7, 1, 4})},
       .run = one_output([](const VariableList& in) {
         return broadcast_to(in[0], {5, 7, 3, 4});
       }),
       .reference = by_element(
           {5, 7, 3, 4}, [=](const double* x, int64_t i) { return x[i / 12 % 7 * 4 + i % 4]; }),
       .grad_terms = 15,
       .errors = {FAILS("broadcast_to", ops::broadcast_to(Tensor::zeros({2, 3}), {2, 4}))}});
}

// Positions of a row by descending value, equals by position.
std::vector<int64_t> ranking(const double* row, int64_t cols) {
  std::vector<int64_t> order(static_cast<size_t>(cols));
  for (int64_t i = 0; i < cols; ++i) order[static_cast<size_t>(i)] = i;
  std::stable_sort(order.begin(), order.end(),
                   [row](int64_t a, int64_t b) { return row[a] > row[b]; });
  return order;
}

void add_selections(OpTable& table) {
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {7, 31}, {9, 264}, {67, 1025}}) {
    const int64_t n = rows, c = cols;
    table.push_back({.name = fmt::format("argmax_{}_{}", n, c),
                     .inputs = {real({n, c})},
                     .run = one_output([](const VariableList& in) {
                       return Variable(ops::argmax(in[0].value()));
                     }),
                     .reference = one_tensor([=](const TensorList& in) {
                       std::vector<int64_t> best;
                       for (int64_t r = 0; r < n; ++r)
                         best.push_back(ranking(in[0].data<double>() + r * c, c)[0]);
                       return Tensor::from(best, {n});
                     }),
                     .differentiable = false,
                     .errors = {FAILS("argmax", ops::argmax(Tensor::zeros({3, 0}))),
                                FAILS("argmax", ops::argmax(Tensor::zeros({3}, DType::i64)))}});
    for (const int64_t k : {int64_t{1}, int64_t{5}, (c + 1) / 2, c}) {
      if (k > c || c == 1) continue;
      const int64_t few = k > 100 ? std::min<int64_t>(n, 5) : n;  // k rounds over a row are slow
      table.push_back({.name = fmt::format("topk_{}_{}_of_{}", few, k, c),
                       .inputs = {real({few, c})},
                       .run = [k](const VariableList& in) -> VariableList {
                         ops::TopK top = ops::topk(in[0].value(), k);
                         return {Variable(top.values), Variable(top.indices)};
                       },
                       .reference = [=](const TensorList& in) -> TensorList {
                         std::vector<double> values;
                         std::vector<int64_t> indices;
                         for (int64_t r = 0; r < few; ++r) {
                           const double* row = in[0].data<double>() + r * c;
                           const std::vector<int64_t> order = ranking(row, c);
                           for (int64_t i = 0; i < k; ++i) {
                             indices.push_back(order[static_cast<size_t>(i)]);
                             values.push_back(row[indices.back()]);
                           }
                         }
                         return {Tensor::from(values, {few, k}), Tensor::from(indices, {few, k})};
                       },
                       .differentiable = false,
                       .errors = {FAILS("topk", ops::topk(Tensor::zeros({2, 3}), 4)),
                                  FAILS("topk", ops::topk(Tensor::zeros({2, 3}), 0))}});
    }
  }
  // Equal entries: the first wins, also after rounding to bf16.
  table.push_back(
      {.name = "argmax_of_equals",
       .inputs = {real({5, 33}, 0.5, 0.5)},
       .run =
           one_output([](const VariableList& in) { return Variable(ops::argmax(in[0].value())); }),
       .reference = one_tensor([](const TensorList&) { return Tensor::zeros({5}, DType::i64); }),
       .differentiable = false});
  for (const int64_t where : {-1, 0, 2}) {
    table.push_back(
        {.name = fmt::format("find_nonfinite_{}", where < 0 ? "none" : std::to_string(where)),
         .inputs = {real({31}), real({1}), real({67, 1025})},
         .run = one_output([where](const VariableList& in) {
           TensorList tensors;
           for (const Variable& v : in) tensors.push_back(v.value().clone());
           // an infinity, and a NaN in a later tensor that must not win
           if (where >= 0) {
             Tensor row = tensors[static_cast<size_t>(where)].narrow(0, 1);
             row.fill_(std::numeric_limits<double>::infinity());
             tensors[2].narrow(32 % tensors[2].dim(0), 1).fill_(std::nan(""));
           }
           return Variable(Tensor::from({ops::find_nonfinite(tensors)}));
         }),
         .reference = one_tensor([where](const TensorList&) { return Tensor::from({where}); }),
         .differentiable = false});
  }
}

}  // namespace

void add_reduce_cases(OpTable& table) {
  add_reductions(table);
  add_broadcasts(table);
  add_selections(table);
  set_bench(table, "argmax_67_1025", {real({4096, 1000})});
  set_bench(table, "topk_67_1_of_1025", {real({4096, 1000})});
}

}  // namespace facet::test
