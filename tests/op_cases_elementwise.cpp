#include <cmath>

#include "tests/op_case.h"

namespace facet::test {
namespace {

using VariableFunction1 = Variable (*)(const Variable&);
using VariableFunction2 = Variable (*)(const Variable&, const Variable&);
using Double1 = double (*)(double);
using Double2 = double (*)(double, double);

std::string suffix(const Shape& shape) {
  std::string s;
  for (const int64_t d : shape) s += fmt::format("_{}", d);
  return s.empty() ? "_scalar" : s;
}

void add_unary(OpTable& table, const std::string& name, double low, double high,
               VariableFunction1 f, Double1 reference) {
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{7}, Shape{31}, Shape{33}, Shape{1023},
                             Shape{1025}, Shape{67, 1025}}) {
    OpCase op{.name = name + suffix(shape),
              .inputs = {real(shape, low, high)},
              .run = one_output([f](const VariableList& in) { return f(in[0]); }),
              .reference =
                  by_element(shape, [=](const double* x, int64_t i) { return reference(x[i]); })};
    if (shape == Shape{7})
      op.errors = {FAILS(name, f(Variable(Tensor::zeros({3}, DType::i64)))),
                   FAILS(name, f(Variable(Tensor::zeros({3}, DType::u8))))};
    if (shape == Shape{1025}) op.bench = {real({1 << 22}, low, high)};
    table.push_back(op);
  }
}

// Element of an operand of `shape` that stands at flat index i of the broadcast shape `out`.
int64_t broadcast_index(int64_t i, const Shape& out, const Shape& shape) {
  int64_t index = 0, step = 1;
  for (int d = 0; d < shape.rank(); ++d) {
    const int64_t extent = shape[shape.rank() - 1 - d];
    const int64_t at = i % out[out.rank() - 1 - d];
    i /= out[out.rank() - 1 - d];
    if (extent != 1) index += at * step;
    step *= extent;
  }
  return index;
}

void add_binary(OpTable& table, const std::string& name, double low, double high,
                VariableFunction2 f, Double2 reference) {
  struct Kind {
    const char* name;
    Shape a, b, out;
  };
  const Kind kinds[] = {
      {"one", {1}, {1}, {1}},
      {"same_7", {7}, {7}, {7}},
      {"same_1025", {1025}, {1025}, {1025}},
      {"same_large", {67, 1025}, {67, 1025}, {67, 1025}},
      {"scalar_right", {31, 33}, {}, {31, 33}},
      {"scalar_left", {}, {1023}, {1023}},
      {"row", {31, 33}, {33}, {31, 33}},
      {"row_left", {33}, {31, 33}, {31, 33}},
      {"row_large", {67, 1025}, {1025}, {67, 1025}},
      {"column", {31, 33}, {31, 1}, {31, 33}},
      {"column_left", {7, 1}, {7, 31}, {7, 31}},
      {"outer", {31, 1}, {1, 33}, {31, 33}},
      {"middle", {7, 1, 5}, {7, 31, 5}, {7, 31, 5}},
      {"channels", {2, 3, 4, 7}, {7}, {2, 3, 4, 7}},
      {"both", {7, 1, 31}, {5, 1}, {7, 5, 31}},
      {"same_vectors", {5, 16}, {5, 16}, {5, 16}},
      {"row_vectors", {31, 64}, {64}, {31, 64}},
      {"outer_vectors", {7, 1}, {1, 32}, {7, 32}},
      {"both_vectors", {7, 1, 32}, {5, 1}, {7, 5, 32}},
      {"alternating", {2, 1, 3, 1, 5}, {1, 4, 1, 7, 1}, {2, 4, 3, 7, 5}},
  };
  for (const Kind& kind : kinds) {
    const Shape a = kind.a, b = kind.b, out = kind.out;
    OpCase op{
        .name = fmt::format("{}_{}", name, kind.name),
        .inputs = {real(a, low, high), real(b, low, high)},
        .run = one_output([f](const VariableList& in) { return f(in[0], in[1]); }),
        .reference = one_tensor([reference, a, b, out](const TensorList& in) {
          const double *pa = in[0].data<double>(), *pb = in[1].data<double>();
          return tabulate(out, [=](int64_t i) {
            return reference(pa[broadcast_index(i, out, a)], pb[broadcast_index(i, out, b)]);
          });
        }),
        .grad_terms = static_cast<double>(out.numel() / std::min(a.numel(), b.numel())),
    };
    if (std::string(kind.name) == "row") {
      const auto zeros = [](const Shape& shape, DType dtype) {
        return Variable(Tensor::zeros(shape, dtype));
      };
      op.errors = {
          FAILS(name, f(zeros({3}, DType::f32), zeros({4}, DType::f32))),
          FAILS(name, f(zeros({2, 3}, DType::f32), zeros({2}, DType::f32))),
          FAILS(name, f(zeros({3}, DType::f32), zeros({3}, DType::bf16))),
          FAILS(name, f(zeros({3}, DType::i64), zeros({3}, DType::i64))),
      };
      op.bench = {real({4096, 1024}, low, high), real({1024}, low, high)};
    }
    table.push_back(op);
  }
}

// f(x) of one input by elements, with an explicit reference.
OpCase elementwise(const std::string& name, const Shape& shape, OpCase::Run run,
                   std::function<double(double)> reference) {
  return {
      .name = name,
      .inputs = {real(shape, -3, 3)},
      .run = std::move(run),
      .reference = by_element(shape, [=](const double* x, int64_t i) { return reference(x[i]); })};
}

// A double as bf16 holds it: 8 significant bits, ties to even.
double rounded_to_bf16(double x) {
  if (x == 0.0) return x;
  const double unit = std::ldexp(1.0, std::ilogb(x) - 7);
  return std::nearbyint(x / unit) * unit;
}

void add_scaling(OpTable& table) {
  for (const Shape& shape : {Shape{1}, Shape{31}, Shape{1025}, Shape{67, 1025}}) {
    table.push_back(
        elementwise("affine" + suffix(shape), shape,
                    one_output([](const VariableList& in) { return affine(1.75, in[0], -0.375); }),
                    [](double x) { return 1.75 * x - 0.375; }));
    OpCase in_place =
        elementwise("scale_in_place" + suffix(shape), shape, one_output([](const VariableList& in) {
                      Tensor y = in[0].value().clone();
                      ops::scale_(y, -2.5);
                      return Variable(y);
                    }),
                    [](double x) { return -2.5 * x; });
    in_place.differentiable = false;
    table.push_back(in_place);
  }
  table.back().errors = {FAILS("affine", affine(2.0, Variable(Tensor::zeros({3}, DType::i64)))),
                         {"scale_", [] {
                            Tensor y = Tensor::zeros({3}, DType::i64);
                            ops::scale_(y, 2.0);
                          }}};
  // y += alpha x for every pair of types, with numbers that are exact in all of them
  for (const DType from : {DType::f64, DType::f32, DType::bf16})
    for (const DType to : {DType::f64, DType::f32, DType::bf16})
      table.push_back(
          {.name = fmt::format("add_in_place_{}_to_{}", facet::name(from), facet::name(to)),
           .inputs = {integers(1025, -8, 8), integers(1025, -8, 8)},
           .run = one_output([=](const VariableList& in) {
             Tensor y = in[0].value().cast(to);
             ops::add_(y, in[1].value().cast(from), 0.75);
             return Variable(y);
           }),
           .reference = one_tensor([](const TensorList& in) {
             const int64_t *y = in[0].data<int64_t>(), *x = in[1].data<int64_t>();
             return tabulate({1025}, [=](int64_t i) {
               return static_cast<double>(y[i]) + 0.75 * static_cast<double>(x[i]);
             });
           }),
           .differentiable = false,
           .errors = {{"add_", [] {
                         Tensor y = Tensor::zeros({3});
                         ops::add_(y, Tensor::zeros({4}));
                       }}}});
}

// A view that does not begin at a multiple of 16 bytes.
void add_unaligned(OpTable& table) {
  OpCase op{.name = "exp_unaligned",
            .inputs = {real({5, 33})},
            .run = one_output([](const VariableList& in) { return exp(narrow(in[0], 1, 3)); }),
            .reference = by_element(
                {3, 33}, [=](const double* x, int64_t i) { return std::exp(x[33 + i]); })};
  table.push_back(op);
}

void add_conversions(OpTable& table) {
  table.push_back(elementwise("cast_to_f64", {1025}, one_output([](const VariableList& in) {
                                return cast(in[0], DType::f64);
                              }),
                              [](double x) { return x; }));
  table.back().errors = {FAILS("cast", cast(Variable(Tensor::zeros({3})), DType::i64))};
  table.push_back(elementwise("cast_to_bf16", {1025}, one_output([](const VariableList& in) {
                                return Variable(in[0].value().cast(DType::bf16));
                              }),
                              rounded_to_bf16));
  table.back().differentiable = false;
  for (const DType integer : {DType::i32, DType::i64, DType::u8}) {
    OpCase op = elementwise(std::string("cast_through_") + facet::name(integer), {1025},
                            one_output([integer](const VariableList& in) {
                              return Variable(in[0].value().cast(integer).cast(in[0].dtype()));
                            }),
                            [](double x) { return std::trunc(x); });
    op.inputs = {real({1025}, 0, 250)};
    op.differentiable = false;
    op.dtypes = kMasterTypes;  // bf16 rounds the inputs across whole numbers
    table.push_back(op);
  }
  for (const Shape& shape : {Shape{7}, Shape{67, 1025}}) {
    table.push_back(elementwise(
        "clone" + suffix(shape), shape,
        one_output([](const VariableList& in) { return Variable(in[0].value().clone()); }),
        [](double x) { return x; }));
    table.back().differentiable = false;
    table.push_back(elementwise(
        "fill" + suffix(shape), shape, one_output([](const VariableList& in) {
          return Variable(Tensor::full(in[0].shape(), -1.5, in[0].dtype(), in[0].device()));
        }),
        [](double) { return -1.5; }));
    table.back().differentiable = false;
  }
}

}  // namespace

void add_elementwise_cases(OpTable& table) {
#define UNARY(name, low, high, reference) \
  add_unary(table, #name, low, high, &facet::name, [](double x) -> double { return reference; });
#include "tensor/unary.def"
#undef UNARY
#define BINARY(name, low, high, reference)          \
  add_binary(table, #name, low, high, &facet::name, \
             [](double a, double b) -> double { return reference; });
#include "tensor/binary.def"
#undef BINARY
  add_scaling(table);
  add_unaligned(table);
  add_conversions(table);
}

}  // namespace facet::test
