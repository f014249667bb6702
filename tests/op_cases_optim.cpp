// Optimiser steps and random numbers: rows without gradients, called at the backend.
#include <array>
#include <cmath>

#include "tests/op_case.h"

namespace facet::test {
namespace {

using Doubles = std::vector<double>;
// One tensor's step in double: w, g and the state are updated in place.
using Step = std::function<void(Doubles& w, const Doubles& g, Doubles& m, Doubles& v)>;

// The tensors of a multi-tensor call: as many sizes as there are inputs of one kind.
const std::array<Shape, 4> kShapes = {Shape{1}, Shape{7, 31}, Shape{1025}, Shape{67, 1025}};

// Inputs: for each shape w, g, m, v. Outputs: the same w, m, v after the step.
OpCase step_case(
    const std::string& name,
    std::function<void(TensorList& w, const TensorList& g, TensorList& m, TensorList& v)> run,
    const Step& reference) {
  OpCase op{.name = name, .terms = 4, .differentiable = false, .dtypes = kMasterTypes};
  for (const Shape& shape : kShapes)
    op.inputs.insert(op.inputs.end(), {real(shape), real(shape), real(shape), real(shape, 0, 1)});
  const auto on = [run](Tensor (*given)(const Tensor&)) {
    return [=](const VariableList& in) -> VariableList {
      TensorList w, g, m, v;
      for (size_t i = 0; i < in.size(); i += 4) {
        w.push_back(given(in[i].value()));
        g.push_back(in[i + 1].value());
        m.push_back(given(in[i + 2].value()));
        v.push_back(given(in[i + 3].value()));
      }
      run(w, g, m, v);
      VariableList out;
      for (size_t i = 0; i < w.size(); ++i)
        for (const Tensor& t : {w[i], m[i], v[i]}) out.emplace_back(t);
      return out;
    };
  };
  op.run = on([](const Tensor& t) { return t.clone(); });
  op.timed = on([](const Tensor& t) { return t; });
  op.reference = [reference](const TensorList& in) -> TensorList {
    TensorList out;
    for (size_t i = 0; i < in.size(); i += 4) {
      Doubles w = in[i].to_vector<double>(), m = in[i + 2].to_vector<double>(),
              v = in[i + 3].to_vector<double>();
      reference(w, in[i + 1].to_vector<double>(), m, v);
      for (const Doubles& d : {w, m, v}) out.push_back(Tensor::from(d, in[i].shape()));
    }
    return out;
  };
  return op;
}

double norm(const Doubles& x) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  return std::sqrt(squares);
}

void add_sgd(OpTable& table, const std::string& name, const SgdArgs& args) {
  table.push_back(step_case(
      "sgd_step_" + name,
      [args](TensorList& w, const TensorList& g, TensorList& m, TensorList&) {
        const std::vector<SgdArgs> all(w.size(), args);
        w[0].backend().sgd_step(w, g, m, all);
      },
      [args](Doubles& w, const Doubles& g, Doubles& m, Doubles&) {
        for (size_t i = 0; i < w.size(); ++i) {
          const double d = g[i] + args.weight_decay * w[i];
          if (args.momentum == 0) {  // no buffer
            w[i] -= args.lr * d;
            continue;
          }
          m[i] = args.first ? d : args.momentum * m[i] + d;
          w[i] -= args.lr * (args.nesterov ? d + args.momentum * m[i] : m[i]);
        }
      }));
}

void add_adamw(OpTable& table, const std::string& name, const AdamArgs& args) {
  table.push_back(step_case(
      "adamw_step_" + name,
      [args](TensorList& w, const TensorList& g, TensorList& m, TensorList& v) {
        const std::vector<AdamArgs> all(w.size(), args);
        w[0].backend().adamw_step(w, g, m, v, all);
      },
      [args](Doubles& w, const Doubles& g, Doubles& m, Doubles& v) {
        const double step = static_cast<double>(args.step);
        for (size_t i = 0; i < w.size(); ++i) {
          const double d = g[i] + (args.decoupled ? 0.0 : args.weight_decay * w[i]);
          m[i] = args.beta1 * m[i] + (1 - args.beta1) * d;
          v[i] = args.beta2 * v[i] + (1 - args.beta2) * d * d;
          const double m_hat = m[i] / (1 - std::pow(args.beta1, step));
          const double v_hat = v[i] / (1 - std::pow(args.beta2, step));
          if (args.decoupled) w[i] -= args.lr * args.weight_decay * w[i];
          w[i] -= args.lr * m_hat / (std::sqrt(v_hat) + args.eps);
        }
      }));
}

void add_lars(OpTable& table, const std::string& name, const LarsArgs& args) {
  table.push_back(step_case(
      "lars_step_" + name,
      [args](TensorList& w, const TensorList& g, TensorList& m, TensorList&) {
        const std::vector<LarsArgs> all(w.size(), args);
        w[0].backend().lars_step(w, g, m, all);
      },
      [args](Doubles& w, const Doubles& g, Doubles& m, Doubles&) {
        Doubles d = g;
        for (size_t i = 0; i < w.size(); ++i) d[i] += args.weight_decay * w[i];
        const double under = args.form == LarsForm::larc
                                 ? norm(g) + args.weight_decay * norm(w) + args.eps
                                 : norm(d);
        const double trust = args.adapt ? args.trust * norm(w) / under : 1.0;
        const bool lr_inside = args.form == LarsForm::simclr;
        for (size_t i = 0; i < w.size(); ++i) {
          const double step = trust * d[i] * (lr_inside ? args.lr : 1.0);
          m[i] = args.first ? step : args.momentum * m[i] + step;
          w[i] -= lr_inside ? m[i] : args.lr * m[i];
        }
      }));
}

void add_other_steps(OpTable& table) {
  table.push_back(step_case(
      "ema_step",
      [](TensorList& w, const TensorList& g, TensorList&, TensorList&) {
        w[0].backend().ema_step(w, g, 0.99);
      },
      [](Doubles& w, const Doubles& g, Doubles&, Doubles&) {
        for (size_t i = 0; i < w.size(); ++i) w[i] = 0.99 * w[i] + (1 - 0.99) * g[i];
      }));
  table.push_back(step_case(
      "scale",
      [](TensorList& w, const TensorList&, TensorList&, TensorList&) {
        const Doubles factors(w.size(), -0.3);
        w[0].backend().scale(w, factors);
      },
      [](Doubles& w, const Doubles&, Doubles&, Doubles&) {
        for (double& v : w) v *= -0.3;
      }));
  table.push_back({.name = "sum_squares",
                   .inputs = {real({1}), real({31}), real({67, 1025})},
                   .run = one_output([](const VariableList& in) {
                     TensorList tensors;
                     for (const Variable& v : in) tensors.push_back(v.value());
                     Doubles sums(tensors.size());
                     tensors[0].backend().sum_squares(tensors, sums);
                     return Variable(Tensor::from(sums, {3}));
                   }),
                   .reference = one_tensor([](const TensorList& in) {
                     Doubles sums;
                     for (const Tensor& t : in) {
                       const double root = norm(t.to_vector<double>());
                       sums.push_back(root * root);
                     }
                     return Tensor::from(sums, {3});
                   }),
                   .terms = 67 * 1025,
                   .differentiable = false,
                   .dtypes = kMasterTypes});
}

// Philox-4x32-10 from the paper's description (Salmon et al. 2011), apart from tensor/random.h.
std::array<uint32_t, 4> philox_block(uint64_t seed, uint64_t stream, uint64_t block) {
  std::array<uint64_t, 4> c = {block & 0xffffffffu, block >> 32, stream & 0xffffffffu,
                               stream >> 32};
  uint64_t k[2] = {seed & 0xffffffffu, seed >> 32};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = 0xD2511F53u * c[0], q = 0xCD9E8D57u * c[2];
    c = {(q >> 32) ^ c[1] ^ k[0], q & 0xffffffffu, (p >> 32) ^ c[3] ^ k[1], p & 0xffffffffu};
    k[0] = (k[0] + 0x9E3779B9u) & 0xffffffffu;
    k[1] = (k[1] + 0xBB67AE85u) & 0xffffffffu;
  }
  return {static_cast<uint32_t>(c[0]), static_cast<uint32_t>(c[1]), static_cast<uint32_t>(c[2]),
          static_cast<uint32_t>(c[3])};
}

void add_random(OpTable& table, int64_t n) {
  const RandomKey key = RandomKey{20231211, 5}.child(static_cast<uint64_t>(n));
  table.push_back({.name = fmt::format("random_uniform_{}", n),
                   .inputs = {real({n})},  // gives the type and device
                   .run = one_output([key](const VariableList& in) {
                     return Variable(ops::random_uniform(in[0].shape(), key, -2, 3, in[0].dtype(),
                                                         in[0].device()));
                   }),
                   .reference = one_tensor([=](const TensorList&) {
                     return tabulate({n}, [=](int64_t i) {
                       const auto at = static_cast<uint64_t>(i);
                       const uint32_t bits =
                           philox_block(key.seed, key.stream, at / 4)[at % 4] >> 8;
                       return -2 + 5 * (static_cast<double>(bits) / (1 << 24));
                     });
                   }),
                   .differentiable = false,
                   .errors = {FAILS("random_uniform",
                                    ops::random_uniform({3}, RandomKey{}, 0, 1, DType::i64))}});
  table.push_back(
      {.name = fmt::format("random_normal_{}", n),
       .inputs = {real({n})},
       .run = one_output([key](const VariableList& in) {
         return Variable(
             ops::random_normal(in[0].shape(), key, 0.5, 2, in[0].dtype(), in[0].device()));
       }),
       .reference = one_tensor([=](const TensorList&) {
         // Box-Muller: (cos, sin) from each half of a block
         return tabulate({n}, [=](int64_t i) {
           const auto at = static_cast<uint64_t>(i);
           const auto v = philox_block(key.seed, key.stream, at / 4);
           const size_t half = at % 4 / 2 * 2;
           const double u = (v[half] + 1.0) / 4294967296.0;
           const double angle = 2 * M_PI * (v[half + 1] / 4294967296.0);
           const double r = std::sqrt(-2 * std::log(u));
           return 0.5 + 2 * r * (at % 2 ? std::sin(angle) : std::cos(angle));
         });
       }),
       .differentiable = false,
       .errors = {FAILS("random_normal", ops::random_normal({3}, RandomKey{}, 0, 1, DType::u8))}});
}

}  // namespace

void add_optim_cases(OpTable& table) {
  add_sgd(table, "plain", {.lr = 0.1});
  add_sgd(table, "decay", {.lr = 0.1, .weight_decay = 1e-2});
  add_sgd(table, "momentum_first", {.lr = 0.1, .momentum = 0.9, .first = true});
  add_sgd(table, "momentum", {.lr = 0.1, .momentum = 0.9, .weight_decay = 1e-2});
  add_sgd(table, "nesterov", {.lr = 0.1, .momentum = 0.9, .nesterov = true});
  add_adamw(table, "decoupled", {.lr = 1e-2, .weight_decay = 0.05});
  add_adamw(table, "l2", {.lr = 1e-2, .weight_decay = 0.05, .decoupled = false, .step = 3});
  add_adamw(table, "late", {.lr = 1e-2, .beta2 = 0.95, .step = 100000});
  for (const LarsForm form : {LarsForm::simclr, LarsForm::moco_v3, LarsForm::larc}) {
    const std::string name = form == LarsForm::simclr    ? "simclr"
                             : form == LarsForm::moco_v3 ? "moco_v3"
                                                         : "larc";
    const LarsArgs args{.lr = 0.3, .weight_decay = 1e-2, .form = form};
    LarsArgs first = args, plain = args;
    first.first = true;
    plain.adapt = false;
    add_lars(table, name, args);
    add_lars(table, name + "_first", first);
    add_lars(table, name + "_without_trust", plain);
  }
  add_other_steps(table);
  // Tensors as those of a ResNet-50: many small ones, few large ones.
  std::vector<Input> steps;
  for (const Shape& shape : {Shape{2048}, Shape{512, 4608}, Shape{2048, 1000}, Shape{2048, 2048}})
    steps.insert(steps.end(), {real(shape), real(shape), real(shape), real(shape, 0, 1)});
  for (const char* name :
       {"sgd_step_nesterov", "adamw_step_decoupled", "lars_step_simclr", "ema_step"})
    set_bench(table, name, steps);
  set_bench(table, "sum_squares", {real({2048}), real({512, 4608}), real({2048, 2048})});
  for (const int64_t n : {1, 7, 1025, 70001}) add_random(table, n);
}

}  // namespace facet::test
