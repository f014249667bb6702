#include <algorithm>
#include <cmath>

#include "tests/op_case.h"

namespace facet::test {
namespace {

struct Product {
  int64_t batch, m, k, n;  // batch 0: plain matrices
  bool trans_a, trans_b;

  Shape shape(int64_t rows, int64_t cols) const {
    return batch ? Shape{batch, rows, cols} : Shape{rows, cols};
  }
  Shape a() const { return trans_a ? shape(k, m) : shape(m, k); }
  Shape b() const { return trans_b ? shape(n, k) : shape(k, n); }
  Shape out() const { return shape(m, n); }
  std::string str() const {
    return fmt::format("{}{}{}{}_{}_{}", batch ? fmt::format("batch_{}_", batch) : "",
                       trans_a ? "t" : "n", trans_b ? "t_" : "n_", m, k, n);
  }
  // (op(a) op(b)) at flat index i of the output
  double at(const double* pa, const double* pb, int64_t i) const {
    const int64_t slice = i / (m * n), row = i / n % m, col = i % n;
    pa += slice * m * k;
    pb += slice * k * n;
    double sum = 0;
    for (int64_t j = 0; j < k; ++j)
      sum += pa[trans_a ? j * m + row : row * k + j] * pb[trans_b ? col * k + j : j * n + col];
    return sum;
  }
};

void add_matmul(OpTable& table, const Product& p) {
  OpCase op{
      .name = "matmul_" + p.str(),
      .inputs = {real(p.a()), real(p.b())},
      .run = one_output(
          [p](const VariableList& in) { return matmul(in[0], in[1], p.trans_a, p.trans_b); }),
      .reference = one_tensor([p](const TensorList& in) {
        const double *a = in[0].data<double>(), *b = in[1].data<double>();
        return tabulate(p.out(), [=](int64_t i) { return p.at(a, b, i); });
      }),
      .terms = static_cast<double>(p.k),
      .grad_terms = static_cast<double>(std::max(p.m, p.n)),
      .threads_agree = false,  // the library cuts long sums by threads
  };
  const auto multiply = [](const Shape& a, const Shape& b, DType dtype_b = DType::f32) {
    matmul(Variable(Tensor::zeros(a)), Variable(Tensor::zeros(b, dtype_b)));
  };
  op.errors = {FAILS("matmul", multiply({2, 3}, {4, 5})), FAILS("matmul", multiply({2, 3}, {3})),
               FAILS("matmul", multiply({2, 3}, {2, 3, 4})),
               FAILS("matmul", multiply({2, 3, 4}, {3, 4, 5})),
               FAILS("matmul", multiply({2, 3}, {3, 4}, DType::bf16))};
  if (p.k == 64) op.bench = {real({512, 512}), real({512, 512})};
  table.push_back(op);
}

// A factor that does not begin at a multiple of 16 bytes.
void add_unaligned_products(OpTable& table) {
  const Product p{0, 8, 8, 16, false, false};
  OpCase op{.name = "matmul_unaligned",
            .inputs = {real({65}), real(p.b())},
            .run = one_output([](const VariableList& in) {
              return matmul(reshape(narrow(in[0], 1, 64), {8, 8}), in[1]);
            }),
            .reference = one_tensor([p](const TensorList& in) {
              const double *a = in[0].data<double>() + 1, *b = in[1].data<double>();
              return tabulate(p.out(), [=](int64_t i) { return p.at(a, b, i); });
            }),
            .terms = 8,
            .grad_terms = 16,
            .threads_agree = false};
  table.push_back(op);
}

void add_linear(OpTable& table, int64_t rows, int64_t in_features, int64_t out_features,
                bool bias) {
  const Product p{0, rows, in_features, out_features, false, true};
  OpCase op{
      .name =
          fmt::format("linear_{}_{}_{}{}", rows, in_features, out_features, bias ? "_bias" : ""),
      .inputs = {real(p.a()), real(p.b())},
      .run = one_output([](const VariableList& in) {
        return linear(in[0], in[1], in.size() > 2 ? in[2] : Variable());
      }),
      .reference = one_tensor([p](const TensorList& in) {
        const double *a = in[0].data<double>(), *b = in[1].data<double>();
        const double* c = in.size() > 2 ? in[2].data<double>() : nullptr;
        return tabulate(p.out(), [=](int64_t i) { return p.at(a, b, i) + (c ? c[i % p.n] : 0.0); });
      }),
      .terms = static_cast<double>(p.k),
      .grad_terms = static_cast<double>(std::max(p.m, p.n)),
      .threads_agree = false,
      .errors = {FAILS("matmul", linear(Variable(Tensor::zeros({2, 3})),
                                        Variable(Tensor::zeros({4, 5})), {})),
                 FAILS("matmul",
                       linear(Variable(Tensor::zeros({2, 3})), Variable(Tensor::zeros({4, 3})),
                              Variable(Tensor::zeros({3}))))},
  };
  if (bias) {
    op.inputs.push_back(real({out_features}));
  }
  table.push_back(op);
}

// out = alpha op(a) op(b) + beta out
void add_matmul_into(OpTable& table, const Product& p, double alpha, double beta) {
  table.push_back(
      {.name = fmt::format("matmul_into_{}{}", p.str(), beta == 0 ? "" : "_add"),
       .inputs = {real(p.a()), real(p.b()), real(p.out())},
       .run = one_output([=](const VariableList& in) {
         // With beta = 0 the old values are not read: here they are NaN.
         Tensor out = beta == 0 ? Tensor::empty_like(in[2].value()) : in[2].value().clone();
         ops::matmul_into(in[0].value(), in[1].value(), {p.trans_a, p.trans_b, alpha, beta}, out);
         return Variable(out);
       }),
       .reference = one_tensor([=](const TensorList& in) {
         const double *a = in[0].data<double>(), *b = in[1].data<double>();
         const double* old = in[2].data<double>();
         return tabulate(p.out(), [=](int64_t i) {
           return alpha * p.at(a, b, i) + (beta == 0 ? 0.0 : beta * old[i]);
         });
       }),
       .terms = static_cast<double>(p.k),
       .differentiable = false,
       .threads_agree = false,
       .errors = {{"matmul",
                   [] {
                     Tensor out = Tensor::zeros({2, 4});
                     ops::matmul_into(Tensor::zeros({2, 3}), Tensor::zeros({3, 5}), {}, out);
                   }},
                  {"matmul", [] {
                     Tensor out = Tensor::zeros({2, 5}, DType::bf16);
                     ops::matmul_into(Tensor::zeros({2, 3}), Tensor::zeros({3, 5}), {}, out);
                   }}}});
}

// Eigenvalues by cyclic Jacobi rotations (Golub & Van Loan, 8.5), ascending.
std::vector<double> jacobi_eigenvalues(std::vector<double> a, size_t n) {
  for (int sweep = 0; sweep < 30; ++sweep)
    for (size_t p = 0; p < n; ++p)
      for (size_t q = p + 1; q < n; ++q) {
        if (a[p * n + q] == 0.0) continue;
        const double tau = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
        const double t = (tau >= 0 ? 1.0 : -1.0) / (std::fabs(tau) + std::hypot(1.0, tau));
        const double c = 1 / std::hypot(1.0, t), s = t * c;
        for (size_t k = 0; k < n; ++k) {
          const double x = a[k * n + p], y = a[k * n + q];
          a[k * n + p] = c * x - s * y;
          a[k * n + q] = s * x + c * y;
        }
        for (size_t k = 0; k < n; ++k) {
          const double x = a[p * n + k], y = a[q * n + k];
          a[p * n + k] = c * x - s * y;
          a[q * n + k] = s * x + c * y;
        }
      }
  std::vector<double> values;
  for (size_t i = 0; i < n; ++i) values.push_back(a[i * n + i]);
  std::sort(values.begin(), values.end());
  return values;
}

// Merges the two most similar clusters (mean similarity of their members) until one is left.
std::vector<double> greedy_average_linkage(const std::vector<double>& s, size_t n) {
  std::vector<std::vector<size_t>> clusters;
  for (size_t i = 0; i < n; ++i) clusters.push_back({i});
  std::vector<double> merges;
  while (clusters.size() > 1) {
    size_t best_a = 0, best_b = 1;
    double best = -1e300;
    for (size_t a = 0; a < clusters.size(); ++a)
      for (size_t b = a + 1; b < clusters.size(); ++b) {
        double sum = 0;
        for (const size_t i : clusters[a])
          for (const size_t j : clusters[b]) sum += s[i * n + j];
        sum /= static_cast<double>(clusters[a].size() * clusters[b].size());
        if (sum > best) {
          best = sum;
          best_a = a;
          best_b = b;
        }
      }
    merges.push_back(best);
    clusters[best_a].insert(clusters[best_a].end(), clusters[best_b].begin(),
                            clusters[best_b].end());
    clusters.erase(clusters.begin() + static_cast<std::ptrdiff_t>(best_b));
  }
  std::sort(merges.rbegin(), merges.rend());
  return merges;
}

// x x^T / K of an (n, K) input: symmetric
Tensor gram(const Tensor& x) {
  return ops::affine(1.0 / static_cast<double>(x.dim(1)), ops::matmul(x, x, false, true), 0.0);
}
std::vector<double> gram_reference(const Tensor& x) {
  const int64_t n = x.dim(0), k = x.dim(1);
  const double* p = x.data<double>();
  std::vector<double> g(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n * n; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < k; ++j) sum += p[i / n * k + j] * p[i % n * k + j];
    g[static_cast<size_t>(i)] = sum / static_cast<double>(k);
  }
  return g;
}

void add_solvers(OpTable& table) {
  for (const int64_t n : {1, 2, 7, 31, 33, 67, 101}) {
    const auto size = static_cast<size_t>(n);
    table.push_back(
        {.name = fmt::format("eigvalsh_{}", n),
         .inputs = {real({n, n + 3})},
         .run = one_output(
             [](const VariableList& in) { return Variable(ops::eigvalsh(gram(in[0].value()))); }),
         .reference = one_tensor([n, size](const TensorList& in) {
           return Tensor::from(jacobi_eigenvalues(gram_reference(in[0]), size), {n});
         }),
         .terms = static_cast<double>(n),
         .differentiable = false,
         .threads_agree = false,
         .dtypes = kMasterTypes,
         .errors = {FAILS("eigvalsh", ops::eigvalsh(Tensor::zeros({2, 3}))),
                    FAILS("eigvalsh", ops::eigvalsh(Tensor::zeros({2, 2}, DType::bf16)))}});
    if (n == 1) continue;
    table.push_back(
        {.name = fmt::format("average_linkage_{}", n),
         .inputs = {real({n, 8})},
         .run = one_output([](const VariableList& in) {
           return Variable(ops::average_linkage(gram(in[0].value())));
         }),
         .reference = one_tensor([n, size](const TensorList& in) {
           return Tensor::from(greedy_average_linkage(gram_reference(in[0]), size), {n - 1});
         }),
         .terms = static_cast<double>(n),
         .differentiable = false,
         .threads_agree = false,
         .dtypes = kMasterTypes,
         .errors = {FAILS("average_linkage", ops::average_linkage(Tensor::zeros({4, 3})))}});
  }
  // Matrices of several sizes at once.
  OpCase many{.name = "average_linkage_of_many",
              .terms = 40,
              .differentiable = false,
              .dtypes = kMasterTypes};
  for (const int64_t n : {7, 40, 1, 2, 33}) many.inputs.push_back(real({n, 8}));
  many.run = [](const VariableList& in) {
    TensorList grams;
    for (const Variable& x : in) grams.push_back(gram(x.value()));
    VariableList merges;
    for (const Tensor& found : ops::average_linkage(std::move(grams))) merges.emplace_back(found);
    return merges;
  };
  many.reference = [](const TensorList& in) {
    TensorList merges;
    for (const Tensor& x : in)
      merges.push_back(
          Tensor::from(greedy_average_linkage(gram_reference(x), static_cast<size_t>(x.dim(0))),
                       {x.dim(0) - 1}));
    return merges;
  };
  const auto zeros = [](DType dtype) { return Tensor::zeros({3, 3}, dtype); };
  many.errors = {FAILS("average_linkage",
                       ops::average_linkage(TensorList{zeros(DType::f32), zeros(DType::f64)})),
                 FAILS("average_linkage",
                       ops::average_linkage(TensorList{zeros(DType::f32), Tensor::zeros({3, 4})}))};
  table.push_back(std::move(many));
}

}  // namespace

void add_linear_cases(OpTable& table) {
  for (const bool trans_a : {false, true})
    for (const bool trans_b : {false, true}) {
      add_matmul(table, {0, 7, 31, 33, trans_a, trans_b});
      add_matmul(table, {0, 64, 64, 48, trans_a, trans_b});
      add_matmul(table, {3, 5, 33, 7, trans_a, trans_b});
      add_matmul_into(table, {0, 7, 31, 33, trans_a, trans_b}, 0.5, 0.0);
      add_matmul_into(table, {3, 5, 33, 7, trans_a, trans_b}, -1.5, 0.75);
      // Tensor cores: several tiles, tails of all sides, long sums in parts, batches.
      add_matmul(table, {0, 136, 40, 200, trans_a, trans_b});
      add_matmul(table, {0, 72, 520, 80, trans_a, trans_b});
      add_matmul(table, {3, 72, 16, 8, trans_a, trans_b});
    }
  add_matmul(table, {0, 1, 1, 1, false, false});
  add_matmul(table, {0, 1, 1025, 1, false, true});
  add_matmul(table, {0, 33, 1, 31, false, false});
  add_matmul(table, {0, 31, 1023, 5, true, false});
  add_matmul(table, {1, 4, 6, 5, false, false});
  add_unaligned_products(table);
  for (const bool bias : {false, true}) {
    add_linear(table, 1, 7, 1, bias);
    add_linear(table, 33, 72, 80, bias);
    add_linear(table, 31, 33, 7, bias);
    add_linear(table, 7, 1025, 33, bias);
  }
  add_solvers(table);
  set_bench(table, "linear_31_33_7_bias", {real({256, 512}), real({1000, 512}), real({1000})});
  set_bench(table, "eigvalsh_33", {real({256, 256})});
  set_bench(table, "average_linkage_33", {real({1024, 64})});
}

}  // namespace facet::test
