#include <array>

#include "tests/op_case.h"

namespace facet::test {
namespace {

void add_reshape_and_narrow(OpTable& table) {
  table.push_back({.name = "reshape",
                   .inputs = {real({7, 3, 11})},
                   .run = one_output([](const VariableList& in) {
                     return reshape(in[0], {33, 7});
                   }),
                   .reference = one_tensor([](const TensorList& in) {
                     return in[0].reshape({33, 7});
                   }),
                   .errors = {FAILS("reshape", reshape(Variable(Tensor::zeros({2, 3})), {2, 2}))}});
  for (const auto& [start, length] :
       {std::pair<int64_t, int64_t>{0, 31}, {0, 7}, {5, 1}, {24, 7}}) {
    const int64_t first = start, n = length;
    table.push_back(
        {.name = fmt::format("narrow_{}_{}", first, n),
         .inputs = {real({31, 33})},
         .run = one_output([=](const VariableList& in) { return narrow(in[0], first, n); }),
         .reference =
             by_element({n, 33}, [=](const double* x, int64_t i) { return x[first * 33 + i]; }),
         .errors = {FAILS("narrow", narrow(Variable(Tensor::zeros({4, 2})), 3, 2)),
                    FAILS("narrow", narrow(Variable(Tensor::zeros({4, 2})), -1, 2))}});
  }
}

// Variable permute takes its axes in braces, so one function a rank.
Variable permute_by(const Variable& x, const std::vector<int>& a) {
  switch (a.size()) {
    case 2: return permute(x, {a[0], a[1]});
    case 3: return permute(x, {a[0], a[1], a[2]});
    case 4: return permute(x, {a[0], a[1], a[2], a[3]});
    default: return permute(x, {a[0], a[1], a[2], a[3], a[4]});
  }
}

void add_permute(OpTable& table, const Shape& shape, const std::vector<int>& axes) {
  Shape out;
  std::string name = "permute";
  for (const int axis : axes) {
    out.push_back(shape[axis]);
    name += fmt::format("_{}", axis);
  }
  table.push_back(
      {.name = name + fmt::format("_of_{}", shape.numel()),
       .inputs = {real(shape)},
       .run = one_output([axes](const VariableList& in) { return permute_by(in[0], axes); }),
       .reference =
           by_element(out,
                      [=](const double* x, int64_t i) {
                        std::array<int64_t, Shape::kMaxRank> at{};  // position on the axes of x
                        for (int d = out.rank() - 1; d >= 0; --d) {
                          at[static_cast<size_t>(axes[static_cast<size_t>(d)])] = i % out[d];
                          i /= out[d];
                        }
                        int64_t index = 0;
                        for (int d = 0; d < shape.rank(); ++d)
                          index = index * shape[d] + at[static_cast<size_t>(d)];
                        return x[index];
                      }),
       .errors = {FAILS("permute", permute(Variable(Tensor::zeros({2, 3})), {0, 0})),
                  FAILS("permute", permute(Variable(Tensor::zeros({2, 3})), {0})),
                  FAILS("permute", permute(Variable(Tensor::zeros({2, 3})), {0, 2}))}});
}

VariableList zeros(std::initializer_list<Shape> shapes) {
  VariableList list;
  for (const Shape& shape : shapes) list.push_back(Variable(Tensor::zeros(shape)));
  return list;
}

void add_transpose_and_concat(OpTable& table) {
  for (const bool batched : {false, true}) {
    const int64_t batch = batched ? 3 : 1;
    const Shape out = batched ? Shape{3, 33, 31} : Shape{33, 31};
    table.push_back(
        {.name = batched ? "transpose_batched" : "transpose",
         .inputs = {real(batched ? Shape{batch, 31, 33} : Shape{31, 33})},
         .run = one_output(
             [](const VariableList& in) { return Variable(ops::transpose(in[0].value())); }),
         .reference = by_element(out,
                                 [=](const double* x, int64_t i) {
                                   return x[i / 1023 * 1023 + i % 31 * 33 + i / 31 % 33];
                                 }),
         .differentiable = false,
         .errors = {FAILS("transpose", ops::transpose(Tensor::zeros({3})))}});
  }
  for (const int axis : {0, 1, 2})
    table.push_back(
        {.name = fmt::format("narrow_axis{}", axis),
         .inputs = {real({5, 7, 9})},
         .run = one_output([axis](const VariableList& in) { return narrow(in[0], 2, 3, axis); }),
         .reference = one_tensor([axis](const TensorList& in) {
           Shape shape = {5, 7, 9};
           shape.set(axis, 3);
           return tabulate(shape, [&](int64_t i) {
             int64_t at[] = {i / shape[2] / shape[1], i / shape[2] % shape[1], i % shape[2]};
             at[axis] += 2;
             return in[0].data<double>()[(at[0] * 7 + at[1]) * 9 + at[2]];
           });
         }),
         .errors = {FAILS("narrow", narrow(Variable(Tensor::zeros({2, 2, 2})), 1, 2, axis)),
                    FAILS("narrow", narrow(Variable(Tensor::zeros({2, 3})), 0, 1, 2))}});
  table.push_back({.name = "concat_axis1",
                   .inputs = {real({7, 1, 5}), real({7, 33, 5})},
                   .run = one_output([](const VariableList& in) { return concat(in, 1); }),
                   .reference = one_tensor([](const TensorList& in) {
                     return tabulate({7, 34, 5}, [&](int64_t i) {
                       const int64_t row = i / 170, rest = i % 170;
                       return rest < 5 ? in[0].data<double>()[row * 5 + rest]
                                       : in[1].data<double>()[row * 165 + rest - 5];
                     });
                   }),
                   .errors = {FAILS("concat", concat(zeros({{2, 3, 4}, {3, 3, 4}}), 1)),
                              FAILS("concat", concat(zeros({{2}}), 1))}});
  table.push_back(
      {.name = "concat",
       .inputs = {real({7, 31}), real({1, 31}), real({33, 31})},
       .run = one_output([](const VariableList& in) { return concat(in); }),
       .reference = one_tensor([](const TensorList& in) {
         return tabulate({41, 31}, [&](int64_t i) {
           const int64_t row = i / 31;
           if (row < 7) return in[0].data<double>()[i];
           return row < 8 ? in[1].data<double>()[i - 7 * 31] : in[2].data<double>()[i - 8 * 31];
         });
       }),
       .errors = {
           FAILS("concat", concat(std::span<const Variable>())),
           FAILS("concat", concat(zeros({{2, 3}, {2, 4}}))),
           FAILS("concat", concat(VariableList{Variable(Tensor::zeros({2, 3})),
                                               Variable(Tensor::zeros({2, 3}, DType::bf16))}))}});
}

void add_gather_and_scatter(OpTable& table, int64_t n, int64_t rows, int64_t width) {
  table.push_back(
      {.name = fmt::format("gather_rows_{}_of_{}_{}", n, rows, width),
       .inputs = {real({rows, width}), integers(n, 0, rows)},
       .run = one_output([](const VariableList& in) { return gather_rows(in[0], in[1].value()); }),
       .reference = one_tensor([=](const TensorList& in) {
         const double* x = in[0].data<double>();
         const int64_t* index = in[1].data<int64_t>();
         return tabulate({n, width},
                         [=](int64_t i) { return x[index[i / width] * width + i % width]; });
       }),
       .grad_terms = static_cast<double>(n),
       .errors = {FAILS("gather_rows",
                        gather_rows(Variable(Tensor::zeros({2, 3})), Tensor::from({int64_t{2}}))),
                  FAILS("gather_rows",
                        gather_rows(Variable(Tensor::zeros({2, 3})), Tensor::from({int64_t{-1}}))),
                  FAILS("gather_rows",
                        gather_rows(Variable(Tensor::zeros({2, 3})), Tensor::zeros({1})))}});
  table.push_back(
      {.name = fmt::format("scatter_add_rows_{}_to_{}_{}", n, rows, width),
       .inputs = {real({n, width}), integers(n, 0, rows)},
       .run = one_output([=](const VariableList& in) {
         return scatter_add_rows(in[0], in[1].value(), {rows, width});
       }),
       .reference = one_tensor([=](const TensorList& in) {
         const double* x = in[0].data<double>();
         const int64_t* index = in[1].data<int64_t>();
         return tabulate({rows, width}, [=](int64_t i) {
           double sum = 0;
           for (int64_t k = 0; k < n; ++k)
             if (index[k] == i / width) sum += x[k * width + i % width];
           return sum;
         });
       }),
       .terms = static_cast<double>(n),
       .errors = {FAILS("scatter_add_rows", scatter_add_rows(Variable(Tensor::zeros({1, 3})),
                                                             Tensor::from({int64_t{2}}), {2, 3})),
                  FAILS("scatter_add_rows", scatter_add_rows(Variable(Tensor::zeros({2, 3})),
                                                             Tensor::from({int64_t{0}}), {2, 3})),
                  {"scatter_add_rows", [] {
                     Tensor out = Tensor::zeros({2, 3}, DType::f64);
                     ops::scatter_add_rows_(out, Tensor::zeros({1, 3}), Tensor::from({int64_t{0}}));
                   }}}});
}

}  // namespace

void add_shape_cases(OpTable& table) {
  add_reshape_and_narrow(table);
  add_permute(table, {31, 33}, {1, 0});
  add_permute(table, {31, 33}, {0, 1});
  add_permute(table, {1, 7}, {1, 0});
  add_permute(table, {7, 5, 33}, {0, 2, 1});
  add_permute(table, {7, 5, 33}, {2, 0, 1});
  add_permute(table, {2, 3, 31, 33}, {0, 2, 3, 1});
  add_permute(table, {4, 67, 7, 40}, {0, 3, 2, 1});
  add_permute(table, {4, 17, 31, 33}, {2, 1, 0, 3});
  add_permute(table, {2, 31, 33, 3}, {0, 3, 1, 2});
  add_permute(table, {2, 3, 4, 5, 7}, {3, 1, 4, 0, 2});
  add_permute(table, {2, 7, 3, 5, 8}, {2, 0, 3, 1, 4});
  add_transpose_and_concat(table);
  add_gather_and_scatter(table, 1, 1, 1);
  add_gather_and_scatter(table, 33, 7, 31);
  add_gather_and_scatter(table, 31, 1025, 7);
  add_gather_and_scatter(table, 7, 33, 1025);
  add_gather_and_scatter(table, 70, 67, 1025);
  add_gather_and_scatter(table, 5000, 7, 3);  // more sources than a block sorts
  set_bench(table, "permute_0_2_3_1_of_6138", {real({32, 64, 56, 56})});
  set_bench(table, "concat_axis1", {real({32, 1, 768}), real({32, 196, 768})});
  set_bench(table, "narrow_axis1", {real({32, 197, 768})});
  set_bench(table, "gather_rows_31_of_1025_7", {real({65536, 128}), integers(4096, 0, 65536)});
  set_bench(table, "scatter_add_rows_33_to_7_31", {real({10000, 512}), integers(10000, 0, 7)});
}

}  // namespace facet::test
