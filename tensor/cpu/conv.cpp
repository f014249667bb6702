// Convolution of NHWC tensors: f64 and some of f32 by matrix products (conv_gemm.cpp), the rest by
// oneDNN. Primitives are made once a shape and kept; activations stay as they are, weights are
// copied into the layout that the primitive chose.
#include "tensor/cpu/conv.h"

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/dnnl.h"
#include "tensor/cpu/weight_tiles.h"
#include "tensor/parallel.h"

namespace facet {
namespace cpu {

size_t ConvKeyHash::operator()(const ConvKey& key) const {
  size_t hash = 0;
  for (int64_t value : {int64_t(key.pass), int64_t(key.dtype), key.n, key.h, key.w, key.c_in, key.p,
                        key.q, key.c_out, key.kernel_h, key.kernel_w, int64_t(key.args.stride),
                        int64_t(key.args.padding), int64_t(key.args.groups), int64_t(key.threads),
                        int64_t(key.bias) + 2 * int64_t(key.residual) + 4 * int64_t(key.relu)})
    hash = (hash ^ static_cast<size_t>(value)) * 0x9e3779b97f4a7c15u + (hash >> 29);
  return hash;
}

namespace {

using dnnl::memory;
using Tag = memory::format_tag;

ConvKey make_key(ConvPass pass, const Shape& x, const Shape& w, const Shape& y, DType dtype,
                 const ConvArgs& args) {
  return {pass, dtype, x[0], x[1], x[2], x[3], y[1], y[2], y[3], w[1], w[2], args, num_threads()};
}

bool has(dnnl::cpu_isa isa) {
  const auto wanted = static_cast<unsigned>(isa);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & wanted) == wanted;
}

// One of the three tensors of a convolution: as facet keeps it and as the primitive wants it.
struct Operand {
  Operand(const memory::desc& kept_, const memory::desc& wanted_, bool is_output_)
      : kept(kept_), wanted(wanted_), is_output(is_output_) {
    if (kept == wanted) return;
    tiles = WeightTiles::between(kept, wanted);
    const auto& e = onednn::engine();
    reorder = is_output ? dnnl::reorder({e, wanted, e, kept}) : dnnl::reorder({e, kept, e, wanted});
  }
  size_t copy_bytes() const { return reorder ? wanted.get_size() : 0; }
  void copy(const void* data, const void* place) const {
    const void *from = is_output ? place : data, *to = is_output ? data : place;
    if (tiles)
      return tiles->copy(static_cast<const float*>(from),
                         static_cast<float*>(const_cast<void*>(to)), is_output);
    reorder.execute(onednn::stream(),
                    {{DNNL_ARG_FROM, onednn::wrap(is_output ? wanted : kept, from)},
                     {DNNL_ARG_TO, onednn::wrap(is_output ? kept : wanted, to)}});
  }

  memory::desc kept, wanted;
  bool is_output;
  std::optional<WeightTiles> tiles;
  dnnl::primitive reorder;  // empty when the layouts agree
};

// Whether Winograd's F(4x4, 3x3) (Lavin & Gray 2016), which needs a quarter of the products, is
// taken instead of direct convolution. Measured (docs/benchmarks): from 96 tiles on it is 0.9 to
// 2.7 times as fast in all three passes; at 64, where transforming the weights costs as much as is
// saved, 0.8 to 1.5; it loses on maps whose last tiles are mostly empty (5 x 5, 2 x 2) and below
// 32 x 64 channels. Its error is 2 to 6 times direct convolution's, at most 2e-6 of the result. The
// rule looks at the shape alone, so that results do not depend on timing.
bool prefers_winograd(const ConvKey& key) {
  const int64_t tiles = (key.p + 3) / 4 * ((key.q + 3) / 4);
  return key.dtype == DType::f32 && key.kernel_h == 3 && key.kernel_w == 3 && !key.residual &&
         key.args == ConvArgs{.stride = 1, .padding = 1, .groups = 1} && key.c_in % 16 == 0 &&
         key.c_out % 16 == 0 && key.c_in * key.c_out >= 2048 && key.n * tiles >= 96 &&
         20 * key.p * key.q >= 11 * 16 * tiles;
}

bool has_avx512() {
  static const bool found = has(dnnl::cpu_isa::avx512_core);
  return found;
}
bool is_plain(const ConvKey& key) {
  return key.dtype == DType::f32 && key.args.groups == 1 && !key.bias && !key.residual && !key.relu;
}
// Up to 3 x 3 output pixels, where oneDNN's kernels are slow; those for AVX-512 are not for the
// input's gradient of more than 2 x 2.
bool is_small(const ConvKey& key) {
  return key.p * key.q <= (key.pass == ConvPass::backward_input && has_avx512() ? 4 : 9);
}

// Whether matrix products are faster than oneDNN's kernels. Measured (docs/benchmarks): on small
// maps 1x1 kernels of 512 channels and more, for the weights and strided ones, 1.0 to 4.0 times;
// without AVX-512 also 3x3 kernels of 64 channels and more, forward and for the weights, 1.0 to 2.5
// times, and weights of 1x1 kernels from 128 channels on 1.0 to 1.9 times.
bool prefers_products(const ConvKey& key) {
  const int64_t channels = std::min(key.c_in, key.c_out);
  const bool is_pixel = key.kernel_h * key.kernel_w == 1;
  const bool is_weight = key.pass == ConvPass::backward_weight;
  if (!is_plain(key) || key.n * key.p * key.q < 64) return false;
  if (is_pixel && channels >= 512 && is_small(key) && (is_weight || key.args.stride > 1))
    return true;
  return !has_avx512() && key.pass != ConvPass::backward_input &&
         (is_pixel ? is_weight && channels >= 128
                   : key.kernel_h <= 3 && key.kernel_w <= 3 && channels >= 64);
}

// Whether conv_taps() is faster than all of these: 1.0 to 2.7 times (docs/benchmarks).
bool prefers_taps(const ConvKey& key) {
  if (!is_plain(key) || !is_small(key) || key.kernel_h * key.kernel_w == 1) return false;
  if (has_avx512() && prefers_winograd(key)) return false;
  const int64_t channels = std::min(key.c_in, key.c_out);
  if (key.pass == ConvPass::backward_weight)
    return channels >= 256 && (has_avx512() ? key.n * channels >= 32 * 512 : key.n >= 96);
  return channels >= (key.pass == ConvPass::forward && has_avx512() ? 512 : 256) && key.n >= 32;
}

// Whether the gradient of the input is a forward convolution with the transposed weights: for 1x1
// kernels at stride 1, where oneDNN's forward kernels are the faster ones.
bool is_transposed_forward(const ConvKey& key) {
  return key.pass == ConvPass::backward_input && key.kernel_h == 1 && key.kernel_w == 1 &&
         key.args == ConvArgs{};
}

// A oneDNN primitive with everything to run it.
class Plan {
 public:
  explicit Plan(const ConvKey& key) {
    if (!prefers_winograd(key) || !make_winograd(key))
      make(key, dnnl::algorithm::convolution_direct, /*any_layout=*/false);
  }

  // Data of x, w and y, and of the epilogue's bias and residual.
  void run(std::array<const void*, 3> data, const void* bias = nullptr,
           const void* residual = nullptr) const {
    const onednn::Scratch scratch(scratchpad_.get_size());
    const onednn::Scratch copies[3] = {onednn::Scratch(operands_[0].copy_bytes()),
                                       onednn::Scratch(operands_[1].copy_bytes()),
                                       onednn::Scratch(operands_[2].copy_bytes())};
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SCRATCHPAD, onednn::wrap(scratchpad_, scratch.data())}};
    for (int i = 0; i < 3; ++i) {
      const void* place = operands_[i].reorder ? copies[i].data() : data[i];
      arguments[arguments_[i]] = onednn::wrap(operands_[i].wanted, place);
      if (operands_[i].reorder && !operands_[i].is_output) operands_[i].copy(data[i], place);
    }
    if (bias) arguments[DNNL_ARG_BIAS] = onednn::wrap(bias_, bias);
    if (residual)
      arguments[DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1] =
          onednn::wrap(operands_[2].kept, residual);
    primitive_.execute(onednn::stream(), arguments);
    for (int i = 0; i < 3; ++i)
      if (operands_[i].reorder && operands_[i].is_output)
        operands_[i].copy(data[i], copies[i].data());
  }

 private:
  // False where oneDNN has no Winograd convolution (it needs AVX-512).
  bool make_winograd(const ConvKey& key) try {
    make(key, dnnl::algorithm::convolution_winograd, /*any_layout=*/true);
    return true;
  } catch (const dnnl::error& e) {
    if (e.status != dnnl_unimplemented) throw;
    return false;
  }

  void make(const ConvKey& key, dnnl::algorithm algorithm, bool any_layout) {
    const int64_t g = key.args.groups;
    const auto type = onednn::type_of(key.dtype);
    const auto activations = [&](int64_t c, int64_t h, int64_t w, bool any) {
      return memory::desc({key.n, c, h, w}, type, any ? Tag::any : Tag::nhwc);
    };
    const auto weights = [&](memory::data_type t, bool any) {
      if (g == 1)
        return memory::desc({key.c_out, key.c_in, key.kernel_h, key.kernel_w}, t,
                            any ? Tag::any : Tag::ohwi);
      return memory::desc({g, key.c_out / g, key.c_in / g, key.kernel_h, key.kernel_w}, t,
                          any ? Tag::any : Tag::gohwi);
    };
    const auto x = activations(key.c_in, key.h, key.w, any_layout);
    const auto y = activations(key.c_out, key.p, key.q, any_layout);
    const memory::dims strides{key.args.stride, key.args.stride};
    const memory::dims padding{key.args.padding, key.args.padding};
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::post_ops then;
    if (key.residual)
      then.append_binary(dnnl::algorithm::binary_add, activations(key.c_out, key.p, key.q, false));
    if (key.relu) then.append_eltwise(1, dnnl::algorithm::eltwise_relu, 0, 0);
    attributes.set_post_ops(then);
    if (key.bias) bias_ = memory::desc({key.c_out}, type, Tag::a);

    const auto keep = [&](const auto& chosen, const memory::desc& w_kept,
                          const std::array<memory::desc, 3>& wanted,
                          const std::array<int, 3>& arguments) {
      primitive_ = dnnl::primitive(chosen.get());
      scratchpad_ = chosen.scratchpad_desc();
      arguments_ = arguments;
      operands_ = {Operand(activations(key.c_in, key.h, key.w, false), wanted[0],
                           key.pass == ConvPass::backward_input),
                   Operand(w_kept, wanted[1], key.pass == ConvPass::backward_weight),
                   Operand(activations(key.c_out, key.p, key.q, false), wanted[2],
                           key.pass == ConvPass::forward)};
    };
    const auto forward = [&](const memory::desc& from, const memory::desc& by,
                             const memory::desc& to) {
      const auto kind = dnnl::prop_kind::forward_training;
      using Forward = dnnl::convolution_forward;
      const Forward::desc described =
          key.bias ? Forward::desc(kind, algorithm, from, by, bias_, to, strides, padding, padding)
                   : Forward::desc(kind, algorithm, from, by, to, strides, padding, padding);
      return Forward::primitive_desc(described, attributes, onednn::engine());
    };
    if (is_transposed_forward(key)) {
      const memory::dims dims{key.c_in, key.c_out, 1, 1};
      const auto chosen = forward(y, memory::desc(dims, type, Tag::any), x);
      keep(chosen, memory::desc(dims, type, memory::dims{1, key.c_in, 1, 1}),
           {chosen.dst_desc(), chosen.weights_desc(), chosen.src_desc()},
           {DNNL_ARG_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_SRC});
      return;
    }
    const auto hint = forward(x, weights(type, true), y);
    if (key.pass == ConvPass::forward) {
      keep(hint, weights(type, false), {hint.src_desc(), hint.weights_desc(), hint.dst_desc()},
           {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST});
    } else if (key.pass == ConvPass::backward_input) {
      const dnnl::convolution_backward_data::primitive_desc chosen(
          {algorithm, x, weights(type, true), y, strides, padding, padding}, attributes,
          onednn::engine(), hint);
      keep(chosen, weights(type, false),
           {chosen.diff_src_desc(), chosen.weights_desc(), chosen.diff_dst_desc()},
           {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST});
    } else {
      const auto wide = memory::data_type::f32;
      const dnnl::convolution_backward_weights::primitive_desc chosen(
          {algorithm, x, weights(wide, true), y, strides, padding, padding}, attributes,
          onednn::engine(), hint);
      keep(chosen, weights(wide, false),
           {chosen.src_desc(), chosen.diff_weights_desc(), chosen.diff_dst_desc()},
           {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST});
    }
  }

  dnnl::primitive primitive_;
  memory::desc scratchpad_, bias_;
  std::vector<Operand> operands_;  // x, w, y
  std::array<int, 3> arguments_{};
};

class PlanCache {
 public:
  std::shared_ptr<const Plan> get(const ConvKey& key) {
    std::lock_guard lock(mutex_);
    auto& plan = plans_[key];
    if (!plan) plan = std::make_shared<const Plan>(key);
    return plan;
  }
  size_t size() {
    std::lock_guard lock(mutex_);
    return plans_.size();
  }

 private:
  std::mutex mutex_;
  std::unordered_map<ConvKey, std::shared_ptr<const Plan>, ConvKeyHash> plans_;
};

PlanCache& plans() {
  static auto* cache = new PlanCache;  // oneDNN's own statics may go before
  return *cache;
}

// oneDNN in f32 is twice as fast as with vdpbf16ps; only AMX makes bf16 arithmetic worth it.
bool by_conversion(DType dtype) {
  static const bool is_fast = has(dnnl::cpu_isa::avx512_core_amx);
  return dtype == DType::bf16 && !is_fast;
}

// Without AVX-512 oneDNN 2.6 gives wrong weight gradients for strided 1x1 kernels of fewer than 8
// input channels, and writes behind the end of their input's gradient.
bool is_miscomputed(const ConvKey& key) {
  return key.dtype == DType::f32 && key.kernel_h == 1 && key.kernel_w == 1 && key.c_in < 8 &&
         key.args.stride > 1 && key.args.padding == 0 && key.args.groups == 1;
}

// What oneDNN does not do: f64.
void finish(const ConvEpilogue& epilogue, Tensor& y) {
  if (epilogue.is_empty()) return;
  const int64_t channels = y.dim(3);
  double* const to = y.data<double>();
  const double* const bias = epilogue.bias.defined() ? epilogue.bias.data<double>() : nullptr;
  const double* const residual =
      epilogue.residual.defined() ? epilogue.residual.data<double>() : nullptr;
  parallel_for(y.numel() / channels, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * channels; i < end * channels; ++i) {
      double value = to[i];
      if (bias) value += bias[i % channels];
      if (residual) value += residual[i];
      to[i] = epilogue.relu && value < 0 ? 0 : value;
    }
  });
}

}  // namespace

size_t conv_primitive_count() {
  return plans().size();
}

}  // namespace cpu

using namespace cpu;

void CpuBackend::conv2d(const Tensor& x, const Tensor& w, const ConvEpilogue& epilogue,
                        const ConvArgs& args, Tensor& y) {
  if (y.numel() == 0) return;
  const Tensor &bias = epilogue.bias, &residual = epilogue.residual;
  if (by_conversion(x.dtype())) {
    const auto widened = [](const Tensor& t) { return t.defined() ? t.cast(DType::f32) : t; };
    Tensor wide = Tensor::empty(y.shape(), DType::f32);
    conv2d(widened(x), widened(w), {widened(bias), widened(residual), epilogue.relu}, args, wide);
    return cast(wide, y);
  }
  ConvKey key = make_key(ConvPass::forward, x.shape(), w.shape(), y.shape(), x.dtype(), args);
  if (x.dtype() == DType::f64) {
    conv_forward_gemm(key, x.data<double>(), w.data<double>(), y.data<double>());
    return finish(epilogue, y);
  }
  key.bias = bias.defined();
  key.residual = residual.defined();
  key.relu = epilogue.relu;
  if (prefers_taps(key))
    return conv_taps(key, x.data<float>(), w.data<float>(), nullptr, y.data<float>());
  if (prefers_products(key))
    return conv_forward_gemm(key, x.data<float>(), w.data<float>(), y.data<float>());
  plans().get(key)->run({x.raw(), w.raw(), y.raw()}, key.bias ? bias.raw() : nullptr,
                        key.residual ? residual.raw() : nullptr);
}

void CpuBackend::conv2d_backward_input(const Tensor& dy, const Tensor& w, const ConvArgs& args,
                                       Tensor& dx) {
  if (dx.numel() == 0) return;
  if (by_conversion(dy.dtype())) {
    Tensor wide = Tensor::empty(dx.shape(), DType::f32);
    conv2d_backward_input(dy.cast(DType::f32), w.cast(DType::f32), args, wide);
    return cast(wide, dx);
  }
  const ConvKey key =
      make_key(ConvPass::backward_input, dx.shape(), w.shape(), dy.shape(), dy.dtype(), args);
  if (dy.dtype() == DType::f64)
    return conv_backward_input_gemm(key, dy.data<double>(), w.data<double>(), dx.data<double>());
  if (prefers_taps(key))
    return conv_taps(key, nullptr, w.data<float>(), dy.data<float>(), dx.data<float>());
  if (is_miscomputed(key) || prefers_products(key))
    return conv_backward_input_gemm(key, dy.data<float>(), w.data<float>(), dx.data<float>());
  plans().get(key)->run({dx.raw(), w.raw(), dy.raw()});
}

void CpuBackend::conv2d_backward_weight(const Tensor& x, const Tensor& dy, const ConvArgs& args,
                                        Tensor& dw) {
  if (dw.numel() == 0) return;
  if (x.numel() == 0) return fill(0.0, dw);
  if (by_conversion(x.dtype()))
    return conv2d_backward_weight(x.cast(DType::f32), dy.cast(DType::f32), args, dw);
  const ConvKey key =
      make_key(ConvPass::backward_weight, x.shape(), dw.shape(), dy.shape(), x.dtype(), args);
  if (x.dtype() == DType::f64)
    return conv_backward_weight_gemm(key, x.data<double>(), dy.data<double>(), dw.data<double>());
  if (prefers_taps(key))
    return conv_taps(key, x.data<float>(), nullptr, dy.data<float>(), dw.data<float>());
  if (is_miscomputed(key) || prefers_products(key))
    return conv_backward_weight_gemm(key, x.data<float>(), dy.data<float>(), dw.data<float>());
  plans().get(key)->run({x.raw(), dw.raw(), dy.raw()});
}

}  // namespace facet
