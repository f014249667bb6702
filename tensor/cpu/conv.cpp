// Convolution of NHWC tensors by oneDNN. Primitives are made once a shape and kept; activations
// stay as they are, weights are copied into the layout that the primitive chose.
#include "tensor/cpu/conv.h"

#include <memory>
#include <mutex>
#include <unordered_map>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/dnnl.h"
#include "tensor/parallel.h"

namespace facet {
namespace cpu {

size_t ConvKeyHash::operator()(const ConvKey& key) const {
  size_t hash = 0;
  for (int64_t value : {int64_t(key.pass), int64_t(key.dtype), key.n, key.h, key.w, key.c_in, key.p,
                        key.q, key.c_out, key.kernel_h, key.kernel_w, int64_t(key.args.stride),
                        int64_t(key.args.padding), int64_t(key.args.groups), int64_t(key.threads)})
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

// One oneDNN primitive with the layouts that it wants.
struct Plan {
  explicit Plan(const ConvKey& key) {
    const int64_t g = key.args.groups;
    const auto type = onednn::type_of(key.dtype);
    x = memory::desc({key.n, key.c_in, key.h, key.w}, type, Tag::nhwc);
    y = memory::desc({key.n, key.c_out, key.p, key.q}, type, Tag::nhwc);
    const auto weights = [&](memory::data_type t, bool free) {
      if (g == 1)
        return memory::desc({key.c_out, key.c_in, key.kernel_h, key.kernel_w}, t,
                            free ? Tag::any : Tag::ohwi);
      return memory::desc({g, key.c_out / g, key.c_in / g, key.kernel_h, key.kernel_w}, t,
                          free ? Tag::any : Tag::gohwi);
    };
    const bool of_weight = key.pass == ConvPass::backward_weight;
    w_given = weights(of_weight ? memory::data_type::f32 : type, false);
    const memory::desc w_any = weights(of_weight ? memory::data_type::f32 : type, true);
    const memory::dims strides{key.args.stride, key.args.stride};
    const memory::dims padding{key.args.padding, key.args.padding};

    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const auto direct = dnnl::algorithm::convolution_direct;
    const dnnl::convolution_forward::primitive_desc forward(
        {dnnl::prop_kind::forward_training, direct, x, weights(type, true), y, strides, padding,
         padding},
        attributes, onednn::engine());
    const auto keep = [&](const auto& chosen, const memory::desc& layout) {
      primitive = dnnl::primitive(chosen.get());
      w = layout;
      scratchpad = chosen.scratchpad_desc();
    };
    if (key.pass == ConvPass::forward) {
      keep(forward, forward.weights_desc());
    } else if (key.pass == ConvPass::backward_input) {
      const dnnl::convolution_backward_data::primitive_desc chosen(
          {direct, x, w_any, y, strides, padding, padding}, attributes, onednn::engine(), forward);
      keep(chosen, chosen.weights_desc());
    } else {
      const dnnl::convolution_backward_weights::primitive_desc chosen(
          {direct, x, w_any, y, strides, padding, padding}, attributes, onednn::engine(), forward);
      keep(chosen, chosen.diff_weights_desc());
    }
    if (w != w_given)
      reorder = of_weight ? dnnl::reorder({onednn::engine(), w, onednn::engine(), w_given})
                          : dnnl::reorder({onednn::engine(), w_given, onednn::engine(), w});
  }

  // Weights as the primitive wants them, in `copy` unless they lie so already.
  memory prepare_weights(const void* given, const onednn::Scratch& copy) const {
    if (w == w_given) return onednn::wrap(w, given);
    memory from = onednn::wrap(w_given, given), to = onednn::wrap(w, copy.data());
    reorder.execute(onednn::stream(), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
    return to;
  }
  size_t copy_bytes() const { return w == w_given ? 0 : w.get_size(); }

  dnnl::primitive primitive;
  dnnl::primitive reorder;  // of the weights; empty when they fit
  memory::desc x, y, w, w_given, scratchpad;
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
bool bf16_is_fast() {
  static const bool fast = (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) &
                            static_cast<unsigned>(dnnl::cpu_isa::avx512_core_amx)) ==
                           static_cast<unsigned>(dnnl::cpu_isa::avx512_core_amx);
  return fast;
}
bool by_conversion(DType dtype) {
  return dtype == DType::bf16 && !bf16_is_fast();
}

void run(const Plan& plan, const memory& src, int dst_argument, const memory& dst,
         std::pair<int, memory> third, int src_argument) {
  const onednn::Scratch scratch(plan.scratchpad.get_size());
  plan.primitive.execute(onednn::stream(),
                         {{src_argument, src},
                          {dst_argument, dst},
                          third,
                          {DNNL_ARG_SCRATCHPAD, onednn::wrap(plan.scratchpad, scratch.data())}});
}

}  // namespace

size_t conv_primitive_count() {
  return plans().size();
}

}  // namespace cpu

using namespace cpu;

void CpuBackend::conv2d(const Tensor& x, const Tensor& w, const ConvArgs& args, Tensor& y) {
  if (y.numel() == 0) return;
  if (by_conversion(x.dtype())) {
    Tensor wide = Tensor::empty(y.shape(), DType::f32);
    conv2d(x.cast(DType::f32), w.cast(DType::f32), args, wide);
    return cast(wide, y);
  }
  const ConvKey key = make_key(ConvPass::forward, x.shape(), w.shape(), y.shape(), x.dtype(), args);
  if (x.dtype() == DType::f64)
    return conv_forward_f64(key, x.data<double>(), w.data<double>(), y.data<double>());
  const auto plan = plans().get(key);
  const onednn::Scratch copy(plan->copy_bytes());
  run(*plan, onednn::wrap(plan->x, x.raw()), DNNL_ARG_DST, onednn::wrap(plan->y, y.raw()),
      {DNNL_ARG_WEIGHTS, plan->prepare_weights(w.raw(), copy)}, DNNL_ARG_SRC);
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
    return conv_backward_input_f64(key, dy.data<double>(), w.data<double>(), dx.data<double>());
  const auto plan = plans().get(key);
  const onednn::Scratch copy(plan->copy_bytes());
  run(*plan, onednn::wrap(plan->y, dy.raw()), DNNL_ARG_DIFF_SRC, onednn::wrap(plan->x, dx.raw()),
      {DNNL_ARG_WEIGHTS, plan->prepare_weights(w.raw(), copy)}, DNNL_ARG_DIFF_DST);
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
    return conv_backward_weight_f64(key, x.data<double>(), dy.data<double>(), dw.data<double>());
  const auto plan = plans().get(key);
  const onednn::Scratch copy(plan->copy_bytes());
  const memory dw_given = onednn::wrap(plan->w_given, dw.raw());
  const memory dw_plan = copy.data() ? onednn::wrap(plan->w, copy.data()) : dw_given;
  run(*plan, onednn::wrap(plan->x, x.raw()), DNNL_ARG_DIFF_WEIGHTS, dw_plan,
      {DNNL_ARG_DIFF_DST, onednn::wrap(plan->y, dy.raw())}, DNNL_ARG_SRC);
  if (copy.data())
    plan->reorder.execute(onednn::stream(), {{DNNL_ARG_FROM, dw_plan}, {DNNL_ARG_TO, dw_given}});
}

}  // namespace facet
