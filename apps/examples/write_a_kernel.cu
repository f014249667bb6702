// A kernel of one's own, from source to result: the mean absolute value of every row of a matrix.
// The same file runs on a GPU (FACET_CUDA=on) and, by default, in the emulator: try a debugger, or
// remove a guard and build with the asan preset.
#include <cstdio>

#include "cuda/block.cuh"
#include "cuda/runtime.h"
#include "tensor/ops.h"

using namespace facet;

// y (rows) = mean |x| of x (rows, cols). Grid: one block a row; block: 128.
template <typename T>
__global__ void mean_abs_kernel(const T* x, int64_t cols, T* y) {
  SHARED_ARRAY(T, scratch, 32);
  const T* row = x + blockIdx.x * cols;
  T sum = 0;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) sum += row[i] < 0 ? -row[i] : row[i];
  sum = cuda::block_sum(sum, scratch);  // all threads call it; each gets the sum
  if (threadIdx.x == 0) y[blockIdx.x] = sum / static_cast<T>(cols);
}

int main() try {
  cuda::install();
  std::printf("running on %s\n", cuda::device_description(0).c_str());
  const Device device{DeviceType::cuda, 0};
  const Tensor x = ops::random_normal({1000, 333}, {/*seed=*/1, /*stream=*/2}).to(device);
  Tensor y = Tensor::empty({1000}, DType::f32, device);

  cuda::launch<mean_abs_kernel<float>>(1000, 128, 0, cuda::stream(0), x.data<float>(), x.cols(),
                                       y.data<float>());

  // The same out of facet's own operations on the CPU.
  const Tensor want = ops::reduce(ReduceOp::mean, ops::abs(x.to(Device{})), 1);
  const std::vector<float> got = y.to_vector<float>(), expected = want.to_vector<float>();
  float worst = 0;
  for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::fabs(got[i] - expected[i]));
  std::printf("row 0: %.6f, largest difference from the CPU %.1e\n", static_cast<double>(got[0]),
              static_cast<double>(worst));
  return worst < 1e-5f ? 0 : 1;
} catch (const std::exception& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 1;
}
