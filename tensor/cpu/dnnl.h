// What the kernels on oneDNN share: the engine, a stream a thread and scratch memory.
#pragma once

#include <oneapi/dnnl/dnnl.hpp>

#include "tensor/cpu/allocator.h"
#include "tensor/dtype.h"

namespace facet::onednn {

const dnnl::engine& engine();
dnnl::stream& stream();  // of the calling thread

inline dnnl::memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

// A handle on memory that oneDNN does not own. oneDNN takes no const pointers.
inline dnnl::memory wrap(const dnnl::memory::desc& desc, const void* data) {
  return dnnl::memory(desc, engine(), const_cast<void*>(data));
}

// Memory for the length of one call, from the caching allocator.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : bytes_(bytes), data_(bytes ? cpu_allocate(bytes) : nullptr) {}
  ~Scratch() {
    if (data_) cpu_release(data_, bytes_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  size_t bytes_;
  void* data_;
};

}  // namespace facet::onednn
