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

}  // namespace

template <typename Call>
void ProfilingBackend::record(const char* method, const std::string& shapes, const Call& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  inner_.synchronize();  // a device that works on its own is waited for
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  std::lock_guard lock(mutex_);
  Count& count = counts_[method][shapes];
  ++count.calls;
  count.seconds += elapsed.count();
}

#define BACKEND_METHOD(name, parameters, arguments)                \
  void ProfilingBackend::name parameters {                         \
    record(#name, by_shape_ ? shapes_of arguments : std::string(), \
           [&] { inner_.name arguments; });                        \
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
      for (const auto& [shapes, count] : by_shapes)
        rows.push_back({method + shapes, count.calls, count.seconds});
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
  return rows;
}

void ProfilingBackend::reset() {
  std::lock_guard lock(mutex_);
  counts_.clear();
}

std::vector<std::string> ProfilingBackend::unreached() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const std::string& method : methods())
    if (!counts_.contains(method)) names.push_back(method);
  return names;
}

Profile::Profile(DeviceType type, bool by_shape)
    : type_(type),
      before_(&backend_for({type, 0})),
      backend_(std::make_unique<ProfilingBackend>(*before_, by_shape)) {
  install_backend(type_, backend_.get());
}

Profile::~Profile() {
  install_backend(type_, before_);
}

}  // namespace facet
