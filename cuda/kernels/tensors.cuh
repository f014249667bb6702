// Many tensors in one launch: each is cut into chunks, a block takes chunks in strides.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "cuda/kernels/common.cuh"

namespace facet::cuda {

constexpr int64_t kChunkElements = 4096;

struct Chunk {
  int32_t tensor;
  int64_t begin;
};
// Up to four tensors that are walked together: a parameter, its gradient, its state.
struct Quad {
  void* data[4];
  int64_t count;
};

// A copy of host values in device memory, as a tensor of bytes.
template <typename T>
Tensor upload(const std::vector<T>& values, Device device) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto* const bytes = reinterpret_cast<const uint8_t*>(values.data());
  const auto size = static_cast<int64_t>(values.size() * sizeof(T));
  return Tensor::from(std::span<const uint8_t>(bytes, static_cast<size_t>(size)), {size})
      .to(device);
}
template <typename T>
const T* uploaded(const Tensor& bytes) {
  return reinterpret_cast<const T*>(bytes.raw());
}

// body(quad, tensor, i) for every element of every tensor. Grid: chunks in strides.
template <typename Body>
__global__ void tensors_kernel(const Quad* quads, const Chunk* chunks, int64_t count,
                               const __grid_constant__ Body body) {
  for (int64_t c = blockIdx.x; c < count; c += gridDim.x) {
    const Chunk chunk = chunks[c];
    const Quad& quad = quads[chunk.tensor];
    const int64_t end = min(chunk.begin + kChunkElements, quad.count);
    for (int64_t i = chunk.begin + threadIdx.x; i < end; i += blockDim.x)
      body(quad, chunk.tensor, i);
  }
}
// sums[c] = sum over chunk c of body(quad, tensor, i), in doubles, always by the same tree.
template <typename Body>
__global__ void tensor_sums_kernel(const Quad* quads, const Chunk* chunks, int64_t count,
                                   const __grid_constant__ Body body, double* sums) {
  SHARED_ARRAY(double, scratch, 32);
  for (int64_t c = blockIdx.x; c < count; c += gridDim.x) {
    const Chunk chunk = chunks[c];
    const Quad& quad = quads[chunk.tensor];
    const int64_t end = min(chunk.begin + kChunkElements, quad.count);
    double sum = 0;
    for (int64_t i = chunk.begin + threadIdx.x; i < end; i += blockDim.x)
      sum += body(quad, chunk.tensor, i);
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) sums[c] = sum;
  }
}

// Tensors that go through one launch together; list k gives data[k] of every quad.
class TensorGroup {
 public:
  using Pointers = std::vector<std::array<void*, 4>>;

  // `sizes`: elements of each; all on `device`.
  TensorGroup(const Pointers& pointers, const std::vector<int64_t>& sizes, Device device)
      : device_(device) {
    std::vector<Quad> quads;
    for (size_t t = 0; t < sizes.size(); ++t) {
      Quad quad{{}, sizes[t]};
      for (size_t k = 0; k < 4; ++k) quad.data[k] = pointers[t][k];
      quads.push_back(quad);
      for (int64_t begin = 0; begin < sizes[t]; begin += kChunkElements)
        chunks_.push_back({static_cast<int32_t>(t), begin});
    }
    if (chunks_.empty()) return;
    quads_on_device_ = upload(quads, device);
    chunks_on_device_ = upload(chunks_, device);
  }

  template <typename Body>
  void for_each(Body body) const {
    if (chunks_.empty()) return;
    launch_for<tensors_kernel<Body>>(chunks_on_device_, blocks_for_rows(count()), kThreads, 0,
                                     uploaded<Quad>(quads_on_device_),
                                     uploaded<Chunk>(chunks_on_device_), count(), body);
  }
  // One sum a tensor, on the host.
  template <typename Body>
  std::vector<double> sums(size_t tensors, Body body) const {
    std::vector<double> result(tensors, 0.0);
    if (chunks_.empty()) return result;
    Tensor partial = Tensor::empty({count()}, DType::f64, device_);
    launch_for<tensor_sums_kernel<Body>>(
        partial, blocks_for_rows(count()), kThreads, 0, uploaded<Quad>(quads_on_device_),
        uploaded<Chunk>(chunks_on_device_), count(), body, partial.data<double>());
    const std::vector<double> host = partial.to_vector<double>();
    for (size_t c = 0; c < chunks_.size(); ++c)
      result[static_cast<size_t>(chunks_[c].tensor)] += host[c];
    return result;
  }

 private:
  int64_t count() const { return static_cast<int64_t>(chunks_.size()); }

  Device device_;
  std::vector<Chunk> chunks_;
  Tensor quads_on_device_, chunks_on_device_;
};

// The tensors of `first` that are of type T, and what goes with them: f(group, their indices).
template <typename T, typename F>
void with_group(std::span<const Tensor> first,
                std::initializer_list<std::span<const Tensor>> others, F&& f) {
  TensorGroup::Pointers pointers;
  std::vector<int64_t> sizes;
  std::vector<size_t> index;
  for (size_t t = 0; t < first.size(); ++t) {
    if (first[t].dtype() != dtype_of<T>()) continue;
    std::array<void*, 4> quad{const_cast<void*>(first[t].raw())};
    size_t k = 1;
    for (const std::span<const Tensor>& list : others)
      quad[k++] = t < list.size() && list[t].defined() ? const_cast<void*>(list[t].raw()) : nullptr;
    pointers.push_back(quad);
    sizes.push_back(first[t].numel());
    index.push_back(t);
  }
  if (!index.empty()) f(TensorGroup(pointers, sizes, first[index[0]].device()), index);
}

}  // namespace facet::cuda
