#include "tensor/profile.h"

#include <algorithm>
#include <chrono>

namespace facet {
namespace {

// Appends the shapes of the tensors among a method's arguments.
struct ShapeList {
  std::string text;

  void add(const Tensor& t) { text += ' ' + (t.defined() ? t.shape().str() : "-"); }
  void add(std::span<const Tensor> tensors) { text += fmt::format(" {} tensors", tensors.size()); }
  void add(std::span<Tensor> tensors) { add(std::span<const Tensor>(tensors)); }
  template <typename Other>
  void add(const Other&) {}
};

template <typename... Args>
std::string shapes_of(const Args&... args) {
  ShapeList list;
  (list.add(args), ...);
  return list.text;
}

double bytes_of(const Tensor& t) {
  return t.defined() ? static_cast<double>(t.bytes()) : 0.0;
}
double bytes_of(std::span<const Tensor> tensors) {
  double sum = 0.0;
  for (const Tensor& t : tensors) sum += bytes_of(t);
  return sum;
}
double bytes_of(std::span<Tensor> tensors) {
  return bytes_of(std::span<const Tensor>(tensors));
}
template <typename Other>
double bytes_of(const Other&) {
  return 0.0;
}

template <typename... Args>
double all_bytes(const Args&... args) {
  return (0.0 + ... + bytes_of(args));
}

double elements(const Tensor& t) {
  return static_cast<double>(t.numel());
}

// Operations of each method: none, unless it is named in Flops.
struct NoFlops {
#define BACKEND_METHOD(name, parameters, arguments) \
  template <typename... Args>                       \
  static double name(const Args&...) {              \
    return 0.0;                                     \
  }
#include "tensor/backend.def"
#undef BACKEND_METHOD
};
struct Flops : NoFlops {
  static double matmul(const Tensor& a, const Tensor&, const Tensor&, const MatmulArgs& args,
                       const Tensor& out) {
    const auto depth = a.dim(a.rank() - (args.trans_a ? 2 : 1));
    return 2.0 * elements(out) * static_cast<double>(depth);
  }
  // Each output element is a sum over a window of one filter, as are both gradients' terms.
  static double conv2d(const Tensor&, const Tensor& w, const ConvEpilogue&, const ConvArgs&,
                       const Tensor& y) {
    return 2.0 * elements(y) * elements(w) / static_cast<double>(w.dim(0));
  }
  static double conv2d_backward_input(const Tensor& dy, const Tensor& w, const ConvArgs& args,
                                      const Tensor&) {
    return conv2d({}, w, {}, args, dy);
  }
  static double conv2d_backward_weight(const Tensor&, const Tensor& dy, const ConvArgs& args,
                                       const Tensor& dw) {
    return conv2d({}, dw, {}, args, dy);
  }
  // Two products forward; five backward, one of them again.
  static double attention(const Tensor& qkv, double, const Tensor&, const Tensor& lse) {
    return 4.0 * elements(lse) * static_cast<double>(qkv.dim(1) * qkv.dim(4));
  }
  static double attention_backward(const Tensor& qkv, const Tensor&, const Tensor& lse,
                                   const Tensor&, double, const Tensor&) {
    return 10.0 * elements(lse) * static_cast<double>(qkv.dim(1) * qkv.dim(4));
  }
};

}  // namespace

template <typename Call>
void ProfilingBackend::run(const char* method, const Row& cost, const Call& call) {
  if (!recording_) return call();
  const auto start = std::chrono::steady_clock::now();
  call();
  inner_.synchronize();  // a device that works on its own is waited for
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  std::lock_guard lock(mutex_);
  Row& row = counts_[method][cost.name];
  row.name = method + cost.name;
  ++row.calls;
  row.seconds += elapsed.count();
  row.bytes += cost.bytes;
  row.flops += cost.flops;
  if (keep_events_)
    events_.push_back({method, cost.name, start, elapsed.count(), std::this_thread::get_id()});
}

#define BACKEND_METHOD(name, parameters, arguments)                                              \
  void ProfilingBackend::name parameters {                                                       \
    const Row cost{by_shape_ ? shapes_of arguments : std::string(), 0, 0.0, all_bytes arguments, \
                   Flops::name arguments};                                                       \
    run(#name, cost, [&] { inner_.name arguments; });                                            \
  }
#include "tensor/backend.def"
#undef BACKEND_METHOD

const std::vector<std::string>& ProfilingBackend::methods() {
  static const std::vector<std::string> names = {
#define BACKEND_METHOD(name, parameters, arguments) #name,
#include "tensor/backend.def"
#undef BACKEND_METHOD
  };
  return names;
}

std::vector<ProfilingBackend::Row> ProfilingBackend::rows() const {
  std::vector<Row> rows;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [method, by_shapes] : counts_)
      for (const auto& [shapes, count] : by_shapes) rows.push_back(count);
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
  return rows;
}

std::vector<ProfilingBackend::Event> ProfilingBackend::events() const {
  std::lock_guard lock(mutex_);
  return events_;
}

void ProfilingBackend::reset() {
  std::lock_guard lock(mutex_);
  counts_.clear();
  events_.clear();
}

std::vector<std::string> ProfilingBackend::unreached() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const std::string& method : methods())
    if (!counts_.contains(method)) names.push_back(method);
  return names;
}

Profile::Profile(DeviceType type, bool by_shape, bool keep_events)
    : type_(type),
      before_(&backend_for({type, 0})),
      backend_(std::make_unique<ProfilingBackend>(*before_, by_shape, keep_events)) {
  install_backend(type_, backend_.get());
}

Profile::~Profile() {
  install_backend(type_, before_);
}

}  // namespace facet
