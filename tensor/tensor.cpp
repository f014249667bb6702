#include "tensor/tensor.h"

#include <cstring>

#include "tensor/backend.h"

namespace facet {

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  const size_t bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
  return Tensor(Storage::allocate(bytes, device), 0, shape, dtype);
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  return full(shape, 0.0, dtype, device);
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill_(value);
  return t;
}

template <typename T>
Tensor Tensor::from(std::span<const T> values, const Shape& shape) {
  FACET_CHECK(static_cast<int64_t>(values.size()) == shape.numel(), "from",
              "{} values for shape {}", values.size(), shape);
  Tensor t = empty(shape, dtype_of<T>());
  if (!values.empty()) std::memcpy(t.raw(), values.data(), values.size_bytes());
  return t;
}

Backend& Tensor::backend() const {
  return backend_for(device());
}

std::string Tensor::str() const {
  return defined() ? fmt::format("{} {} on {}", name(dtype_), shape_, device().str())
                   : "undefined tensor";
}

Tensor Tensor::reshape(const Shape& shape) const {
  FACET_CHECK(shape.numel() == numel(), "reshape", "cannot view {} as {}", shape_, shape);
  return Tensor(storage_, offset_, shape, dtype_);
}

Tensor Tensor::narrow(int64_t start, int64_t length) const {
  FACET_CHECK(rank() >= 1 && start >= 0 && length >= 0 && start + length <= dim(0), "narrow",
              "rows {}..{} of {}", start, start + length, shape_);
  Shape shape = shape_;
  shape.set(0, length);
  const auto row_bytes = dim(0) == 0 ? 0 : static_cast<size_t>(numel() / dim(0)) * size_of(dtype_);
  return Tensor(storage_, offset_ + static_cast<size_t>(start) * row_bytes, shape, dtype_);
}

Tensor Tensor::clone() const {
  Tensor copy = empty_like(*this);
  copy.copy_(*this);
  return copy;
}

Tensor Tensor::to(Device device) const {
  if (device == this->device()) return *this;
  Tensor moved = empty(shape_, dtype_, device);
  moved.copy_(*this);
  return moved;
}

Tensor Tensor::sent_to(Device device) const {
  if (device == this->device()) return *this;
  FACET_CHECK(this->device().is_cpu(), "sent_to", "expected a tensor on the cpu, got {}", str());
  return {Storage::send(raw(), bytes(), device), 0, shape_, dtype_};
}

Tensor Tensor::cast(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor converted = empty(shape_, dtype, device());
  converted.copy_(*this);
  return converted;
}

void Tensor::copy_(const Tensor& source) {
  FACET_CHECK(shape_ == source.shape_, "copy_", "expected {}, got {}", shape_, source.shape_);
  if (numel() == 0) return;
  if (device() != source.device()) {
    Tensor same_type = source.cast(dtype_);
    Backend& mover = device().is_cpu() ? same_type.backend() : backend();
    mover.copy(same_type, *this);
  } else if (dtype_ != source.dtype_) {
    backend().cast(source, *this);
  } else {
    backend().copy(source, *this);
  }
}

void Tensor::fill_(double value) {
  if (numel() > 0) backend().fill(value, *this);
}

double Tensor::item() const {
  FACET_CHECK(numel() == 1, "item", "expected one element, got {}", shape_);
  return to_vector<double>()[0];
}

template <typename T>
std::vector<T> Tensor::to_vector() const {
  const Tensor host = cast(dtype_of<T>()).to(Device{});
  host.backend().synchronize();
  return std::vector<T>(host.data<T>(), host.data<T>() + host.numel());
}

#define FACET_INSTANTIATE(T)                                                \
  template Tensor Tensor::from<T>(std::span<const T> values, const Shape&); \
  template std::vector<T> Tensor::to_vector<T>() const;
FACET_INSTANTIATE(float)
FACET_INSTANTIATE(double)
FACET_INSTANTIATE(bf16)
FACET_INSTANTIATE(int32_t)
FACET_INSTANTIATE(int64_t)
FACET_INSTANTIATE(uint8_t)
#undef FACET_INSTANTIATE

}  // namespace facet
