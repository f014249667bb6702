// cuDNN's functions, and its descriptors as values.
#pragma once

#include <cudnn.h>

#include <algorithm>
#include <utility>

#include "cuda/vendor/library.h"

namespace facet::cuda::vendor {

struct Cudnn : Library {
  Cudnn() : Library("cuDNN", {"libcudnn.so.9"}) {}
  VENDOR_FUNCTION(cudnnGetVersion);
  VENDOR_FUNCTION(cudnnGetErrorString);
  VENDOR_FUNCTION(cudnnCreate);
  VENDOR_FUNCTION(cudnnSetStream);
  VENDOR_FUNCTION(cudnnBackendCreateDescriptor);
  VENDOR_FUNCTION(cudnnBackendDestroyDescriptor);
  VENDOR_FUNCTION(cudnnBackendSetAttribute);
  VENDOR_FUNCTION(cudnnBackendGetAttribute);
  VENDOR_FUNCTION(cudnnBackendFinalize);
  VENDOR_FUNCTION(cudnnBackendExecute);
};
inline const Cudnn& dnn() {
  static const auto* const library = new Cudnn;
  return *library;
}

// What cuDNN does not like.
class DnnError : public Error {
  using Error::Error;
};
inline void check_dnn(cudnnStatus_t status, const char* call) {
  if (status != CUDNN_STATUS_SUCCESS)
    throw DnnError("{}: {}", call, dnn().cudnnGetErrorString(status));
}

class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    check_dnn(dnn().cudnnBackendCreateDescriptor(type, &raw_), "cudnnBackendCreateDescriptor");
  }
  ~Descriptor() {
    if (raw_) dnn().cudnnBackendDestroyDescriptor(raw_);
  }
  Descriptor(Descriptor&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }

  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, size_t count,
           const void* values) {
    check_dnn(dnn().cudnnBackendSetAttribute(raw_, name, type, static_cast<int64_t>(count), values),
              "cudnnBackendSetAttribute");
  }
  template <typename Value>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
           std::initializer_list<Value> values) {
    set(name, type, values.size(), values.begin());
  }
  void set(cudnnBackendAttributeName_t name, const Descriptor& value) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, {value.raw_});
  }
  // At most `most` values into `values`; returns how many.
  int64_t get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t most,
              void* values) const {
    int64_t count = 0;
    check_dnn(dnn().cudnnBackendGetAttribute(raw_, name, type, most, &count, values),
              "cudnnBackendGetAttribute");
    return std::min(count, most);
  }
  void finalize() { check_dnn(dnn().cudnnBackendFinalize(raw_), "cudnnBackendFinalize"); }
  cudnnBackendDescriptor_t raw() const { return raw_; }

 private:
  cudnnBackendDescriptor_t raw_ = nullptr;
};

}  // namespace facet::cuda::vendor
