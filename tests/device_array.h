// Device memory of a test's own kernels.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <vector>

#include "cuda/emu/runtime.h"
#include "cuda/error.h"
#include "tests/folder.h"

namespace facet::test {

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : size_(values.size()) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), bytes()), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), cudaSuccess);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }
  operator T*() { return data_; }
  std::vector<T> host() {
    std::vector<T> values(size_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  size_t bytes() const { return size_ * sizeof(T); }
  T* data_ = nullptr;
  size_t size_;
};

// Waiting for the device brings up a fault, whose message is one line and holds the words.
inline void expect_fault(std::initializer_list<const char*> words) {
  expect_parts(error_of<cuda::CudaError>(
                   [] { cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"); }),
               words);
  emu::reset();
}

// f() under every schedule that the tests know.
template <typename F>
void for_each_schedule(F f) {
  for (const char* text : {"greedy", "reverse", "random:1", "random:2"}) {
    SCOPED_TRACE(text);
    emu::set_schedule(emu::Schedule::parse(text));
    f();
  }
}

}  // namespace facet::test
