// Tensor: a handle to shared storage plus byte offset, shape and element type. Always contiguous
// in row-major order, knows nothing of gradients (autograd/variable.h adds them).
// Copying a Tensor shares its memory; clone() copies it; functions ending in _ write in place.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/device.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/storage.h"

namespace facet {

class Backend;

class Tensor {
 public:
  Tensor() = default;

  // ---- creation
  static Tensor empty(const Shape& shape, DType dtype = DType::f32, Device device = {});
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = {});
  static Tensor full(const Shape& shape, double value, DType dtype = DType::f32,
                     Device device = {});
  static Tensor empty_like(const Tensor& other) {
    return empty(other.shape(), other.dtype(), other.device());
  }
  static Tensor zeros_like(const Tensor& other) {
    return zeros(other.shape(), other.dtype(), other.device());
  }
  // Copies values (row-major) into a new CPU tensor.
  template <typename T>
  static Tensor from(std::span<const T> values, const Shape& shape);
  template <typename T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from(std::span<const T>(values), shape);
  }
  template <typename T>
  static Tensor from(std::initializer_list<T> values) {
    return from(std::span<const T>(values.begin(), values.size()),
                Shape{static_cast<int64_t>(values.size())});
  }

  // ---- description
  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int axis) const { return shape_.dim(axis); }
  int64_t numel() const { return shape_.numel(); }
  int64_t rows() const { return shape_.rows(); }
  int64_t cols() const { return shape_.cols(); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device() : Device{}; }
  size_t bytes() const { return static_cast<size_t>(numel()) * size_of(dtype_); }
  Backend& backend() const;
  std::string str() const;  // "f32 (8, 3) on cpu"
  // True when no other handle sees this memory, so that it may be reused in place.
  bool is_sole_owner() const { return storage_.use_count() == 1; }
  bool shares_storage_with(const Tensor& other) const { return storage_ == other.storage_; }

  // ---- memory (device pointers for CUDA tensors)
  const void* raw() const { return bytes_at_offset(); }
  void* raw() { return bytes_at_offset(); }
  template <typename T>
  const T* data() const {
    check_type(dtype_of<T>());
    return static_cast<const T*>(raw());
  }
  template <typename T>
  T* data() {
    check_type(dtype_of<T>());
    return static_cast<T*>(raw());
  }

  // ---- views: share the memory
  Tensor reshape(const Shape& shape) const;
  Tensor flatten() const { return reshape({numel()}); }
  Tensor narrow(int64_t start, int64_t length) const;  // along axis 0

  // ---- copies
  Tensor clone() const;
  Tensor to(Device device) const;  // itself when it is there already
  // As to(), from the host, for threads beside the one whose work the device does: the copy is not
  // behind that work, and done.
  Tensor sent_to(Device device) const;
  Tensor cast(DType dtype) const;    // itself when it has that type already
  void copy_(const Tensor& source);  // same shape; converts type and device
  void fill_(double value);
  void zero_() { fill_(0.0); }

  // ---- reading back to the host
  double item() const;  // the only element
  template <typename T>
  std::vector<T> to_vector() const;  // converts the type if needed

 private:
  Tensor(std::shared_ptr<Storage> storage, size_t offset, const Shape& shape, DType dtype)
      : storage_(std::move(storage)), offset_(offset), shape_(shape), dtype_(dtype) {}
  void* bytes_at_offset() const {
    return storage_ ? static_cast<std::byte*>(storage_->data()) + offset_ : nullptr;
  }
  void check_type(DType expected) const {
    FACET_CHECK(dtype_ == expected, "data", "expected {}, got a tensor of {}", name(expected),
                name(dtype_));
  }

  std::shared_ptr<Storage> storage_;
  size_t offset_ = 0;
  Shape shape_;
  DType dtype_ = DType::f32;
};

using TensorList = std::vector<Tensor>;

struct NamedTensor {
  std::string name;
  Tensor value;
};

}  // namespace facet
