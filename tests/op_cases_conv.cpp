#include <algorithm>
#include <limits>

#include "tests/op_case.h"

namespace facet::test {
namespace {

struct Conv {
  int64_t n, h, w, c_in, c_out, kh, kw;
  ConvArgs args;

  Shape x() const { return {n, h, w, c_in}; }
  Shape weight() const { return {c_out, kh, kw, c_in / args.groups}; }
  int64_t p() const { return (h + 2 * args.padding - kh) / args.stride + 1; }
  int64_t q() const { return (w + 2 * args.padding - kw) / args.stride + 1; }
  Shape y() const { return {n, p(), q(), c_out}; }
  std::string str() const {
    return fmt::format("{}x{}_{}_to_{}_of_{}_{}_{}{}{}{}", kh, kw, c_in, c_out, n, h, w,
                       args.stride > 1 ? fmt::format("_stride_{}", args.stride) : "",
                       args.padding > 0 ? fmt::format("_padding_{}", args.padding) : "",
                       args.groups > 1 ? fmt::format("_groups_{}", args.groups) : "");
  }
};

double conv_at(const Conv& c, const double* x, const double* w, int64_t i) {
  const int64_t out = i % c.c_out, q = i / c.c_out % c.q(), p = i / c.c_out / c.q() % c.p();
  const int64_t image = i / c.c_out / c.q() / c.p();
  const int64_t in_group = c.c_in / c.args.groups;
  const int64_t first = out / (c.c_out / c.args.groups) * in_group;
  double sum = 0;
  for (int64_t r = 0; r < c.kh; ++r)
    for (int64_t s = 0; s < c.kw; ++s) {
      const int64_t row = p * c.args.stride + r - c.args.padding;
      const int64_t col = q * c.args.stride + s - c.args.padding;
      if (row < 0 || row >= c.h || col < 0 || col >= c.w) continue;
      for (int64_t k = 0; k < in_group; ++k)
        sum += x[((image * c.h + row) * c.w + col) * c.c_in + first + k] *
               w[((out * c.kh + r) * c.kw + s) * in_group + k];
    }
  return sum;
}

void add_conv(OpTable& table, const Conv& c) {
  OpCase op{.name = "conv2d_" + c.str(),
            .inputs = {real(c.x()), real(c.weight())},
            .run = one_output([c](const VariableList& in) { return conv2d(in[0], in[1], c.args); }),
            .reference = one_tensor([c](const TensorList& in) {
              const double *x = in[0].data<double>(), *w = in[1].data<double>();
              return tabulate(c.y(), [=](int64_t i) { return conv_at(c, x, w, i); });
            }),
            .terms = static_cast<double>(c.kh * c.kw * c.c_in / c.args.groups),
            .grad_terms = static_cast<double>(
                std::max(c.n * c.p() * c.q(), c.kh * c.kw * c.c_out / c.args.groups)),
            .threads_agree = false};
  if (c.args.groups == 1) op.bench = {real({32, 32, 32, c.c_in}), real(c.weight())};
  table.push_back(op);
}

// relu?(conv + bias + residual), each where asked for.
void add_conv_epilogue(OpTable& table, const Conv& c, bool bias, bool residual, bool relu) {
  const auto epilogue = [=](const auto& in) {
    return ConvEpilogue{bias ? in[2] : Tensor(), residual ? in[bias ? 3 : 2] : Tensor(), relu};
  };
  OpCase op{.name = fmt::format("conv2d{}{}{}_{}", bias ? "_bias" : "", residual ? "_residual" : "",
                                relu ? "_relu" : "", c.str()),
            .inputs = {constant(c.x()), constant(c.weight())},
            .run = one_output([=](const VariableList& in) {
              TensorList values;
              for (const Variable& v : in) values.push_back(v.value());
              return Variable(ops::conv2d(values[0], values[1], c.args, epilogue(values)));
            }),
            .reference = one_tensor([=](const TensorList& in) {
              const double *x = in[0].data<double>(), *w = in[1].data<double>();
              const ConvEpilogue e = epilogue(in);
              return tabulate(c.y(), [=](int64_t i) {
                double value = conv_at(c, x, w, i);
                if (bias) value += e.bias.data<double>()[i % c.c_out];
                if (residual) value += e.residual.data<double>()[i];
                return relu ? std::max(value, 0.0) : value;
              });
            }),
            .terms = static_cast<double>(c.kh * c.kw * c.c_in / c.args.groups),
            .differentiable = false,
            .threads_agree = false};
  if (bias) op.inputs.push_back(constant({c.c_out}));
  if (residual) op.inputs.push_back(constant(c.y()));
  op.errors = {FAILS("conv2d", ops::conv2d(Tensor::zeros({1, 4, 4, 3}), Tensor::zeros({8, 3, 3, 3}),
                                           {}, {Tensor::zeros({7}), {}, false}))};
  table.push_back(op);
}

void add_conv_errors(OpCase& op) {
  const auto conv = [](const Shape& x, const Shape& w, const ConvArgs& args = {}) {
    conv2d(Variable(Tensor::zeros(x)), Variable(Tensor::zeros(w)), args);
  };
  op.errors = {FAILS("conv2d", conv({1, 4, 4, 3}, {8, 3, 3, 4})),
               FAILS("conv2d", conv({4, 4, 3}, {8, 3, 3, 3})),
               FAILS("conv2d", conv({1, 2, 4, 3}, {8, 3, 3, 3})),
               FAILS("conv2d", conv({1, 4, 4, 4}, {9, 3, 3, 2}, {.groups = 2})),
               FAILS("conv2d", conv({1, 4, 4, 3}, {8, 3, 3, 3}, {.stride = 0})),
               FAILS("conv2d", conv({1, 4, 4, 3}, {8, 3, 3, 3}, {.padding = -1})),
               FAILS("conv2d", conv2d(Variable(Tensor::zeros({1, 4, 4, 3})),
                                      Variable(Tensor::zeros({8, 3, 3, 3}, DType::bf16)), {})),
               FAILS("conv2d_backward_input",
                     ops::conv2d_backward_input(Tensor::zeros({1, 4, 4, 8}),
                                                Tensor::zeros({8, 3, 3, 3}), {1, 4, 4, 3}, {})),
               FAILS("conv2d_backward_weight",
                     ops::conv2d_backward_weight(Tensor::zeros({1, 4, 4, 3}),
                                                 Tensor::zeros({1, 4, 4, 8}), {8, 3, 3, 3}, {}))};
}

struct Pool {
  int64_t n, h, w, c;
  PoolArgs args;
  int64_t p() const { return (h + 2 * args.padding - args.kernel) / args.stride + 1; }
  int64_t q() const { return (w + 2 * args.padding - args.kernel) / args.stride + 1; }
};

void add_max_pool(OpTable& table, const Pool& pool) {
  table.push_back(
      {.name = fmt::format("max_pool2d_{}_stride_{}_padding_{}_of_{}_{}_{}_{}", pool.args.kernel,
                           pool.args.stride, pool.args.padding, pool.n, pool.h, pool.w, pool.c),
       .inputs = {real({pool.n, pool.h, pool.w, pool.c})},
       .run = one_output([pool](const VariableList& in) { return max_pool2d(in[0], pool.args); }),
       .reference = by_element(
           {pool.n, pool.p(), pool.q(), pool.c},
           [=](const double* x, int64_t i) {
             const int64_t c = i % pool.c, q = i / pool.c % pool.q();
             const int64_t p = i / pool.c / pool.q() % pool.p(),
                           n = i / pool.c / pool.q() / pool.p();
             double best = -std::numeric_limits<double>::infinity();
             for (int64_t r = 0; r < pool.args.kernel; ++r)
               for (int64_t s = 0; s < pool.args.kernel; ++s) {
                 const int64_t row = p * pool.args.stride + r - pool.args.padding;
                 const int64_t col = q * pool.args.stride + s - pool.args.padding;
                 if (row >= 0 && row < pool.h && col >= 0 && col < pool.w)
                   best = std::max(best, x[((n * pool.h + row) * pool.w + col) * pool.c + c]);
               }
             return best;
           }),
       .grad_terms = 9,
       .errors = {FAILS("max_pool2d", max_pool2d(Variable(Tensor::zeros({1, 1, 8, 3})), {3, 2, 0})),
                  FAILS("max_pool2d", max_pool2d(Variable(Tensor::zeros({8, 8, 3})), {})),
                  FAILS("max_pool2d", max_pool2d(Variable(Tensor::zeros({1, 8, 8, 3})), {2, 2, 2})),
                  FAILS("max_pool2d_backward",
                        ops::max_pool2d_backward(Tensor::zeros({1, 8, 8, 3}),
                                                 Tensor::zeros({1, 8, 8, 3}, DType::u8),
                                                 {1, 8, 8, 3}, {}))}});
}

}  // namespace

void add_conv_cases(OpTable& table) {
  const Conv convs[] = {
      {2, 5, 7, 3, 4, 1, 1, {}},
      {2, 7, 7, 8, 16, 1, 1, {.stride = 2}},
      {1, 8, 8, 16, 16, 3, 3, {.padding = 1}},
      {2, 7, 9, 3, 5, 3, 3, {.padding = 1}},
      {2, 8, 8, 8, 8, 3, 3, {.stride = 2, .padding = 1}},
      {1, 7, 9, 5, 7, 3, 3, {.stride = 2, .padding = 1}},
      {1, 6, 6, 4, 4, 3, 3, {}},
      {1, 15, 13, 3, 8, 7, 7, {.stride = 2, .padding = 3}},
      {1, 16, 16, 3, 64, 7, 7, {.stride = 2, .padding = 3}},
      {2, 9, 9, 4, 6, 3, 3, {.padding = 1, .groups = 2}},
      {1, 7, 7, 6, 6, 3, 3, {.padding = 1, .groups = 6}},
      {1, 8, 8, 32, 32, 3, 3, {.stride = 2, .padding = 1, .groups = 4}},
      {2, 8, 8, 3, 6, 4, 4, {.stride = 4}},
      {1, 6, 9, 2, 3, 3, 2, {.padding = 1}},
      {1, 5, 5, 2, 3, 5, 5, {.padding = 2}},
      {1, 1, 1, 1, 1, 1, 1, {}},
      {3, 4, 4, 31, 33, 3, 3, {.padding = 1}},
      {1, 8, 8, 64, 64, 3, 3, {.padding = 1}},
      {2, 7, 9, 72, 80, 3, 3, {.padding = 1}},
      {1, 9, 8, 128, 136, 1, 1, {}},            // its weights are a product without AVX-512
      {2, 17, 16, 3, 5, 3, 3, {.padding = 1}},  // sums over 544 places, in parts on CUDA
      {2, 8, 8, 4, 16, 1, 1, {.stride = 2}},    // its weights' gradient: CpuBackend, is_miscomputed
      // Channels by 8, for tensor cores, and where only one side's are.
      {2, 17, 16, 8, 8, 3, 3, {.padding = 1}},
      {2, 6, 5, 8, 12, 3, 3, {.padding = 1}},
      {2, 6, 5, 12, 8, 3, 3, {.padding = 1}},
      {1, 10, 11, 8, 16, 5, 5, {.stride = 3, .padding = 2}},
      {1, 6, 9, 16, 8, 3, 2, {.padding = 1}},
      {2, 7, 7, 32, 48, 3, 3, {.padding = 1, .groups = 2}},
  };
  for (const Conv& conv : convs) add_conv(table, conv);
  add_conv_errors(table.back());
  const Conv same{1, 8, 8, 64, 64, 3, 3, {.padding = 1}};
  add_conv_epilogue(table, same, true, true, true);
  table.back().bench = {real({32, 32, 32, 64}), real(same.weight()), real({64}),
                        real({32, 32, 32, 64})};
  add_conv_epilogue(table, same, true, false, true);
  add_conv_epilogue(table, {2, 7, 7, 8, 16, 1, 1, {.stride = 2}}, false, true, true);
  add_conv_epilogue(table, {2, 17, 16, 8, 8, 3, 3, {.padding = 1}}, true, true, true);  // in parts
  add_conv_epilogue(table, {2, 6, 5, 12, 8, 3, 3, {.padding = 1}}, true, true, false);
  // cuDNN's engines with epilogues want even channels and no groups.
  add_conv_epilogue(table, {1, 16, 16, 3, 64, 7, 7, {.stride = 2, .padding = 3}}, true, false,
                    true);
  add_conv_epilogue(table, {2, 7, 7, 32, 48, 3, 3, {.padding = 1, .groups = 2}}, true, true, true);

  const Pool pools[] = {
      {2, 8, 8, 7, {3, 2, 1}},    {1, 7, 9, 33, {3, 2, 1}},  {2, 6, 6, 5, {2, 2, 0}},
      {1, 5, 5, 1, {3, 1, 1}},    {1, 9, 9, 3, {5, 4, 2}},   {1, 1, 1, 31, {1, 1, 0}},
      {4, 32, 32, 33, {3, 2, 1}}, {1, 8, 9, 130, {3, 2, 1}}, {2, 8, 9, 16, {3, 2, 1}},
      {1, 9, 7, 8, {2, 3, 0}},    {1, 7, 5, 24, {5, 1, 2}},
  };
  for (const Pool& pool : pools) add_max_pool(table, pool);

  for (const Shape& shape : {Shape{1, 1, 1, 1}, Shape{2, 7, 7, 31}, Shape{3, 5, 9, 1025}}) {
    const int64_t pixels = shape[1] * shape[2], c = shape[3];
    table.push_back(
        {.name = fmt::format("global_avg_pool_{}_{}_{}", shape[0], pixels, c),
         .inputs = {real(shape)},
         .run = one_output([](const VariableList& in) { return global_avg_pool(in[0]); }),
         .reference = by_element({shape[0], c},
                                 [=](const double* x, int64_t i) {
                                   double sum = 0;
                                   for (int64_t k = 0; k < pixels; ++k)
                                     sum += x[(i / c * pixels + k) * c + i % c];
                                   return sum / static_cast<double>(pixels);
                                 }),
         .terms = static_cast<double>(pixels),
         .errors = {
             FAILS("global_avg_pool", global_avg_pool(Variable(Tensor::zeros({2, 3, 4}))))}});
  }
  set_bench(table, "max_pool2d_3_stride_2_padding_1_of_2_8_8_7", {real({32, 112, 112, 64})});
  set_bench(table, "global_avg_pool_2_49_31", {real({256, 7, 7, 512})});
}

}  // namespace facet::test
