// The vendors' libraries: that they are asked, that facet's own kernels do what they refuse, and
// how they are found. The op table compares their results. On a GPU the same tests meet the real
// ones.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cuda/runtime.h"
#include "cuda/vendor/dnn.h"
#include "cuda/vendor/library.h"
#include "tensor/ops.h"
#if defined(FACET_CUDA_EMULATED)
#include <cublasLt.h>
#include <cudnn.h>

#include "cuda/emu/runtime.h"
#endif

namespace facet {
namespace {

namespace fs = std::filesystem;
using cuda::KernelChoice;
namespace vendor = cuda::vendor;

const Device kCuda{DeviceType::cuda, 0};

Tensor random(const Shape& shape, DType dtype = DType::f32, uint64_t stream = 0) {
  return ops::random_uniform(shape, {3, stream}, -1.0, 1.0, DType::f32).cast(dtype);
}
double worst_difference(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  EXPECT_EQ(x.size(), y.size());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i)
    worst = std::max(worst, x[i] == x[i] ? std::fabs(x[i] - y[i]) : INFINITY);
  return worst;
}

class VendorTest : public testing::Test {
 protected:
  void SetUp() override {
    cuda::install();
    cuda::set_kernel_choice(KernelChoice::vendor);
    vendor::set_plan_choice(vendor::PlanChoice::first);
  }
  void TearDown() override {
    cuda::set_kernel_choice(KernelChoice::vendor);
    vendor::set_plan_choice(vendor::PlanChoice::first);
#if defined(FACET_CUDA_EMULATED)
    emu::plan_faults({});
#endif
  }
  // How many vendor calls f makes; f compares.
  template <typename F>
  static int64_t calls_of(const F& f) {
    const int64_t before = vendor::calls();
    f();
    return vendor::calls() - before;
  }
};

struct ConvResults {
  Tensor y, dx, dw;
};
ConvResults convolve(const Tensor& x, const Tensor& w, const ConvArgs& args) {
  const Tensor y = ops::conv2d(x, w, args);
  return {y, ops::conv2d_backward_input(y, w, x.shape(), args),
          ops::conv2d_backward_weight(x, y, w.shape(), args)};
}
void expect_the_cpus_convolutions(const Tensor& x, const Tensor& w, const ConvArgs& args,
                                  double tolerance) {
  const ConvResults want = convolve(x, w, args), got = convolve(x.to(kCuda), w.to(kCuda), args);
  EXPECT_LE(worst_difference(got.y, want.y), tolerance);
  EXPECT_LE(worst_difference(got.dx, want.dx), tolerance);
  EXPECT_LE(worst_difference(got.dw, want.dw), tolerance);
  EXPECT_EQ(got.dw.dtype(), DType::f32);
}

TEST_F(VendorTest, ProductsAreTheVendors) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (const bool trans_a : {false, true})
      for (const bool trans_b : {false, true})
        for (const bool batched : {false, true}) {
          const auto shape = [&](bool transposed, int64_t rows, int64_t cols) {
            if (transposed) std::swap(rows, cols);
            return batched ? Shape{3, rows, cols} : Shape{rows, cols};
          };
          const Tensor a = random(shape(trans_a, 5, 9), dtype).to(kCuda);
          const Tensor b = random(shape(trans_b, 9, 6), dtype).to(kCuda);
          for (const int times : {1, 2})  // with a new plan and with the same again
            EXPECT_EQ(calls_of([&] { ops::matmul(a, b, trans_a, trans_b); }), 1)
                << times << ": " << vendor::last_refusal();
        }
  const Tensor a = random({7, 33}, DType::bf16).to(kCuda);
  Tensor square = Tensor::empty({7, 7}, DType::f32, kCuda);
  EXPECT_EQ(calls_of([&] { ops::matmul_into(a, a, {.trans_b = true}, square); }), 1);
  const Tensor bias = random({7}, DType::bf16).to(kCuda);
  EXPECT_EQ(calls_of([&] { ops::matmul(a, a, false, true, bias); }), 1);
}

TEST_F(VendorTest, TheOwnKernelsAreAskedForByName) {
  const Tensor a = random({7, 33}).to(kCuda), x = random({1, 4, 4, 3}).to(kCuda);
  for (const KernelChoice choice : {KernelChoice::tuned, KernelChoice::naive}) {
    cuda::set_kernel_choice(choice);
    EXPECT_EQ(calls_of([&] {
                ops::matmul(a, a, false, true);
                convolve(x, random({2, 3, 3, 3}).to(kCuda), {.padding = 1});
              }),
              0);
  }
}

// Views that begin anywhere in their memory; a plan for the aligned ones would not do.
TEST_F(VendorTest, MemoryMayBeginAnywhere) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const double tolerance = dtype == DType::f32 ? 1e-5 : 0.1;
    const Tensor a = random({8, 33}, dtype), b = random({6, 33}, dtype, 1);
    const Tensor a_there = a.to(kCuda), b_there = b.to(kCuda);
    const Tensor x = random({3, 5, 3, 3}, dtype), w = random({4, 3, 3, 3}, dtype, 1);
    for (const int64_t from : {0, 1, 0}) {
      EXPECT_LE(worst_difference(
                    ops::matmul(a_there.narrow(from, 5), b_there.narrow(from, 5), false, true),
                    ops::matmul(a.narrow(from, 5), b.narrow(from, 5), false, true)),
                tolerance);
      const Tensor y = ops::conv2d(x.to(kCuda).narrow(from, 2), w.to(kCuda), {});
      EXPECT_LE(worst_difference(y, ops::conv2d(x.narrow(from, 2), w, {})), tolerance);
    }
  }
  const Tensor many = random({3, 7}), a = random({4, 5}), b = random({7, 5});
  const Tensor bias = many.to(kCuda).narrow(1, 1).reshape({7});
  EXPECT_LE(worst_difference(ops::matmul(a.to(kCuda), b.to(kCuda), false, true, bias),
                             ops::matmul(a, b, false, true, many.narrow(1, 1).reshape({7}))),
            1e-5);
}

TEST_F(VendorTest, SumsOfNothing) {
  const Tensor a = Tensor::zeros({3, 0}, DType::f32, kCuda);
  const Tensor b = Tensor::zeros({0, 4}, DType::f32, kCuda);
  EXPECT_EQ(ops::matmul(a, b).to_vector<float>(), std::vector<float>(12, 0.0f));
}

TEST_F(VendorTest, EveryDeviceHasItsOwnHandle) {
  if (cuda::device_count() < 2) GTEST_SKIP() << "one device only";
  const Tensor a = random({7, 33}), x = random({1, 5, 5, 2}), w = random({3, 3, 3, 2});
  for (const int index : {1, 0, 1}) {
    const Device device{DeviceType::cuda, index};
    EXPECT_LE(worst_difference(ops::matmul(a.to(device), a.to(device), false, true),
                               ops::matmul(a, a, false, true)),
              1e-5);
    EXPECT_LE(worst_difference(ops::conv2d(x.to(device), w.to(device), {}), ops::conv2d(x, w, {})),
              1e-5);
    const Tensor gram = ops::matmul(a, a, false, true);
    EXPECT_LE(worst_difference(ops::eigvalsh(gram.to(device)), ops::eigvalsh(gram)), 1e-4);
  }
}

TEST_F(VendorTest, ConvolutionsAreTheVendors) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto& [from, to] : {std::pair<int64_t, int64_t>{4, 6}, {16, 8}})
      for (const ConvArgs& args : {ConvArgs{1, 1, 1}, ConvArgs{2, 1, 2}, ConvArgs{2, 0, 1}}) {
        const Tensor x = random({2, 7, 8, from}, dtype);
        const Tensor w = random({to, 3, 3, from / args.groups}, dtype);
        // cuDNN has no f32 gradient of bf16 factors in groups, and a wrong one of odd channels.
        const bool own_gradient = dtype == DType::bf16 && (args.groups > 1 || from % 8 != 0);
        for (const int times : {1, 2})
          EXPECT_EQ(calls_of([&] { convolve(x.to(kCuda), w.to(kCuda), args); }),
                    own_gradient ? 2 : 3)
              << times << ": " << vendor::last_refusal();
      }
}

TEST_F(VendorTest, TheFastestPlanComputesTheSame) {
  vendor::set_plan_choice(vendor::PlanChoice::fastest);
  const Tensor x = random({2, 6, 7, 5}), w = random({3, 3, 3, 5});
  for (const int times : {1, 2})
    EXPECT_EQ(calls_of([&] { expect_the_cpus_convolutions(x, w, {.padding = 1}, 1e-4); }), 3)
        << times;
}

// Waiting for an event is not allowed there.
TEST_F(VendorTest, NoPlanIsTimedInACapture) {
  vendor::set_plan_choice(vendor::PlanChoice::fastest);
  const Tensor x = random({2, 6, 6, 7}), w = random({3, 3, 3, 7});
  const Tensor x_there = x.to(kCuda), w_there = w.to(kCuda);
#if !defined(FACET_CUDA_EMULATED)
  ops::conv2d(x_there, w_there, {});  // libraries may load code at the first call
#endif
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  const cudaStream_t stream = cuda::stream(0);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  const Tensor y = ops::conv2d(x_there, w_there, {});
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  EXPECT_LE(worst_difference(y, ops::conv2d(x, w, {})), 1e-5);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

TEST(VendorLibraries, AreSearchedForInTheFoldersNamed) {
  const fs::path folder = fs::path(testing::TempDir()) / "facet_vendor_test";
  fs::create_directories(folder / "empty");
  std::ifstream maps("/proc/self/maps");
  std::string line, loaded;
  while (std::getline(maps, line))
    if (const size_t at = line.find('/'); line.find("/libstdc++.so") != std::string::npos)
      loaded = line.substr(at);
  ASSERT_FALSE(loaded.empty());
  fs::remove(folder / "libfacet_vendor.so.9");
  fs::create_symlink(loaded, folder / "libfacet_vendor.so.9");
  std::ofstream(folder / "libfacet_broken.so.9") << "no library";
  ::setenv("FACET_CUDA_LIBRARIES", ((folder / "empty").string() + ":" + folder.string()).c_str(),
           1);
  std::string why;
  EXPECT_TRUE(vendor::open_library({"libfacet_vendor.so.10", "libfacet_vendor.so.9"}, why));
  EXPECT_FALSE(vendor::open_library({"libfacet_nothing.so.9"}, why));
  EXPECT_NE(why.find("libfacet_nothing.so.9 is not in"), std::string::npos) << why;
  EXPECT_FALSE(vendor::open_library({"libfacet_broken.so.9"}, why));
  EXPECT_NE(why.find((folder / "libfacet_broken.so.9").string() + ":"), std::string::npos) << why;
  ::unsetenv("FACET_CUDA_LIBRARIES");
  fs::remove_all(folder);
}

#if defined(FACET_CUDA_EMULATED)
TEST_F(VendorTest, LibrariesSayWhatTheyAre) {
  EXPECT_EQ(vendor::description(),
            "cuBLASLt stand-in, cuDNN stand-in, cuSOLVER stand-in, NCCL stand-in");
}

TEST_F(VendorTest, RefusedProductsAreComputedByTheOwnKernels) {
  emu::plan_faults({.refuse_products = true});
  const Tensor a = random({9, 35}), bias = random({9});
  for (const int times : {1, 2})  // the refusal is remembered
    EXPECT_EQ(calls_of([&] {
                EXPECT_LE(worst_difference(
                              ops::matmul(a.to(kCuda), a.to(kCuda), false, true, bias.to(kCuda)),
                              ops::matmul(a, a, false, true, bias)),
                          1e-5);
              }),
              0)
        << times;
  EXPECT_NE(vendor::last_refusal().find("CUBLAS_STATUS_NOT_SUPPORTED"), std::string::npos);
}

TEST_F(VendorTest, RefusedConvolutionsAreComputedByTheOwnKernels) {
  emu::plan_faults({.refuse_convolutions = true});
  const Tensor x = random({2, 6, 5, 8}), w = random({5, 3, 3, 8});
  for (const int times : {1, 2})
    EXPECT_EQ(calls_of([&] { expect_the_cpus_convolutions(x, w, {.padding = 1}, 1e-4); }), 0)
        << times;
  EXPECT_NE(vendor::last_refusal().find("CUDNN_STATUS_NOT_SUPPORTED"), std::string::npos);
}

// A library that is missing costs speed; only eigenvalues have nothing else. In a process of its
// own, because a library is looked for once.
TEST(VendorLibrariesDeathTest, MissingOnesCostSpeedOnly) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto without = [] {
    ::setenv("FACET_EMU_MACHINE", "vendor_libraries=0", 1);
    cuda::install();
    const Tensor a = random({7, 33}), x = random({2, 6, 5, 4}), w = random({5, 3, 3, 4});
    const Tensor product = ops::matmul(a.to(kCuda), a.to(kCuda), false, true);
    const double off =
        worst_difference(product, ops::matmul(a, a, false, true)) +
        worst_difference(ops::conv2d(x.to(kCuda), w.to(kCuda), {}), ops::conv2d(x, w, {}));
    fmt::print(stderr, "{}; {}; ", vendor::description(), off < 1e-5 ? "right" : "wrong");
    try {
      ops::eigvalsh(product);
    } catch (const Error& e) {
      fmt::print(stderr, "{}\n", e.what());
    }
    std::exit(0);
  };
  EXPECT_EXIT(without(), testing::ExitedWithCode(0),
              "cuBLASLt not found, cuDNN not found, cuSOLVER not found, NCCL not found; right; "
              "\\[eigvalsh\\] CUDA devices need cuSOLVER for eigenvalues: ");
}

// A library that loads but cannot start (a part of it is missing, the driver is too old).
TEST(VendorLibrariesDeathTest, OnesWithoutHandlesCostSpeedOnly) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto without = [] {
    ::setenv("FACET_EMU_MACHINE", "vendor_handles=0", 1);
    cuda::install();
    const Tensor a = random({7, 33}), x = random({2, 6, 5, 4}), w = random({5, 3, 3, 4});
    for (int time = 0; time < 2; ++time) {
      const double product = worst_difference(ops::matmul(a.to(kCuda), a.to(kCuda), false, true),
                                              ops::matmul(a, a, false, true));
      fmt::print(stderr, "{} {}; ", product < 1e-5 ? "right" : "wrong", vendor::last_refusal());
      const double images =
          worst_difference(ops::conv2d(x.to(kCuda), w.to(kCuda), {}), ops::conv2d(x, w, {}));
      fmt::print(stderr, "{} {}; ", images < 1e-5 ? "right" : "wrong", vendor::last_refusal());
    }
    std::exit(0);
  };
  // Each is asked once.
  EXPECT_EXIT(without(), testing::ExitedWithCode(0),
              "right cublasLtCreate: [^;]*; right cudnnCreate: [^;]*; right cudnnCreate: [^;]*; "
              "right cudnnCreate: ");
}

TEST(VendorStandIns, RefuseWhatTheVendorRefuses) {
  cublasLtMatrixLayout_t layout = nullptr;
  ASSERT_EQ(cublasLtMatrixLayoutCreate(&layout, CUDA_R_32F, 4, 5, 4), CUBLAS_STATUS_SUCCESS);
  const int64_t batch = 2;  // an int32_t is wanted
  EXPECT_EQ(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                             sizeof batch),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasLtMatrixLayoutSetAttribute(
                layout, static_cast<cublasLtMatrixLayoutAttribute_t>(1), &batch, sizeof batch),
            CUBLAS_STATUS_INVALID_VALUE);
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  cublasLtHandle_t handle = nullptr;
  ASSERT_EQ(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F),
            CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasLtMatmulPreferenceCreate(&preference), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
  cublasLtMatmulHeuristicResult_t result;
  int count = -1;  // (4, 5) by (4, 5) is no product
  EXPECT_EQ(cublasLtMatmulAlgoGetHeuristic(handle, product, layout, layout, layout, layout,
                                           preference, 1, &result, &count),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(count, 0);
  EXPECT_EQ(cublasLtMatmulPreferenceDestroy(preference), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtMatmulDescDestroy(product), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtMatrixLayoutDestroy(layout), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtDestroy(handle), CUBLAS_STATUS_SUCCESS);

  cudnnBackendDescriptor_t tensor = nullptr;
  ASSERT_EQ(cudnnBackendCreateDescriptor(CUDNN_BACKEND_TENSOR_DESCRIPTOR, &tensor),
            CUDNN_STATUS_SUCCESS);
  const int64_t sizes[4] = {1, 2, 3, 4};
  const auto set = [&](cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                       int64_t elements) {
    return cudnnBackendSetAttribute(tensor, name, type, elements, sizes);
  };
  EXPECT_EQ(set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_FLOAT, 4),
            CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
  EXPECT_EQ(set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 3),
            CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT);
  EXPECT_EQ(set(CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2), CUDNN_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(cudnnBackendFinalize(tensor), CUDNN_STATUS_BAD_PARAM);
  EXPECT_EQ(cudnnBackendDestroyDescriptor(tensor), CUDNN_STATUS_SUCCESS);
}
#endif

}  // namespace
}  // namespace facet
