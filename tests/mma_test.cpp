// The emulated tensor cores and asynchronous copies: layouts as the PTX ISA documents them, written
// down here a second time, and that mistakes with copies are seen.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "cuda/emu/error.h"
#include "cuda/kernels/conv_chunks.cuh"
#include "cuda/kernels/mma_gemm.cuh"
#include "cuda/runtime.h"
#include "tensor/ops.h"
#include "tensor/random.h"
#include "tests/device_array.h"
#include "tests/folder.h"

namespace facet {
namespace {

using cuda::launch;
using test::DeviceArray;
using test::for_each_schedule;

class MmaTest : public testing::Test {
 protected:
  void TearDown() override {
    emu::reset();
    emu::set_schedule({});
  }
};

std::vector<bf16> random_bf16(size_t n, uint64_t seed) {
  RandomSequence random(RandomKey{seed, 0});
  std::vector<bf16> values(n);
  for (bf16& v : values) v = bf16(random.uniform(-1.0, 1.0));
  return values;
}
std::vector<float> counting(size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(i);
  return values;
}
unsigned pack(bf16 low, bf16 high) {
  return low.bits | static_cast<unsigned>(high.bits) << 16;
}

// d (16, 8) += a (16, 16) b (16, 8)
void expect_product(const std::vector<bf16>& a, const std::vector<bf16>& b,
                    const std::vector<float>& before, const std::vector<float>& d) {
  for (size_t row = 0; row < 16; ++row)
    for (size_t col = 0; col < 8; ++col) {
      double want = static_cast<double>(before[row * 8 + col]), size = std::fabs(want);
      for (size_t k = 0; k < 16; ++k) {
        const double term = static_cast<double>(float(a[row * 16 + k])) *
                            static_cast<double>(float(b[k * 8 + col]));
        want += term;
        size += std::fabs(term);
      }
      ASSERT_NEAR(static_cast<double>(d[row * 8 + col]), want, 17 * 0x1p-24 * size)
          << row << " " << col;
    }
}

// grid 1, block 32: fragments straight from row-major memory. Element i of lane's fragment of a
// stands at row `lane / 4`, 8 lower for i = 2, 3, 6, 7, and column 2 (lane % 4) + i % 2, 8 further
// for i >= 4; of b at row 2 (lane % 4) + i % 2, 8 lower for i >= 2, and column lane / 4.
__global__ void fragment_kernel(const bf16* a, const bf16* b, float* d) {
  const unsigned lane = threadIdx.x, group = lane >> 2, member = lane & 3;
  bf16 of_a[8], of_b[4];
  for (unsigned i = 0; i < 8; ++i) {
    const bool lower = (i >= 2 && i < 4) || i >= 6;
    of_a[i] = a[(group + (lower ? 8 : 0)) * 16 + member * 2 + (i & 1) + (i >= 4 ? 8 : 0)];
  }
  for (unsigned i = 0; i < 4; ++i)
    of_b[i] = b[(member * 2 + (i & 1) + (i >= 2 ? 8 : 0)) * 8 + group];
  float* const cells[4] = {&d[group * 8 + 2 * member], &d[group * 8 + 2 * member + 1],
                           &d[(group + 8) * 8 + 2 * member], &d[(group + 8) * 8 + 2 * member + 1]};
  float sums[4];
  for (unsigned i = 0; i < 4; ++i) sums[i] = *cells[i];
  cuda::mma(sums,
            {pack(of_a[0], of_a[1]), pack(of_a[2], of_a[3]), pack(of_a[4], of_a[5]),
             pack(of_a[6], of_a[7])},
            {pack(of_b[0], of_b[1]), pack(of_b[2], of_b[3])});
  for (unsigned i = 0; i < 4; ++i) *cells[i] = sums[i];
}

TEST_F(MmaTest, FragmentsLieAsDocumented) {
  for_each_schedule([] {
    const std::vector<bf16> a = random_bf16(256, 1), b = random_bf16(128, 2);
    const std::vector<float> before = counting(128);
    DeviceArray<bf16> to_a(a), to_b(b);
    DeviceArray<float> d(before);
    launch<fragment_kernel>(1, 32, 0, nullptr, to_a, to_b, d);
    expect_product(a, b, before, d.host());
  });
}

// grid 1, block 32: words of both loads of 32 rows of 8; out is (2, 4, 32)
__global__ void matrices_kernel(const bf16* rows, unsigned* out) {
  SHARED_ARRAY(bf16, tile, 32 * 8);
  for (unsigned i = 0; i < 8; ++i) tile[threadIdx.x * 8 + i] = rows[threadIdx.x * 8 + i];
  __syncwarp();
  unsigned plain[4], transposed[4];
  cuda::load_matrices(plain, tile + threadIdx.x * 8);
  cuda::load_matrices_transposed(transposed, tile + threadIdx.x * 8);
  for (unsigned i = 0; i < 4; ++i) {
    out[i * 32 + threadIdx.x] = plain[i];
    out[(4 + i) * 32 + threadIdx.x] = transposed[i];
  }
}

TEST_F(MmaTest, MatricesAreLoadedAsDocumented) {
  for_each_schedule([] {
    const std::vector<bf16> rows = random_bf16(256, 3);
    DeviceArray<bf16> from(rows);
    DeviceArray<unsigned> to(std::vector<unsigned>(256));
    launch<matrices_kernel>(1, 32, 0, nullptr, from, to);
    const std::vector<unsigned> got = to.host();
    const auto at = [&](size_t matrix, size_t row, size_t col) {
      return rows[matrix * 64 + row * 8 + col];
    };
    for (size_t i = 0; i < 4; ++i)
      for (size_t lane = 0; lane < 32; ++lane) {
        const size_t row = lane / 4, col = lane % 4 * 2;
        ASSERT_EQ(got[i * 32 + lane], pack(at(i, row, col), at(i, row, col + 1)));
        ASSERT_EQ(got[(4 + i) * 32 + lane], pack(at(i, col, row), at(i, col + 1, row)));
      }
  });
}

// grid 1, block 32: a as rows of k or of m, b as rows of k: copied, loaded as matrices, multiplied
template <bool Transposed>
__global__ void product_kernel(const bf16* a, const bf16* b, float* d) {
  SHARED_ARRAY(bf16, tile_a, 256);
  SHARED_ARRAY(bf16, tile_b, 256);  // 16 rows of 8, each followed by 8 that are not looked at
  const unsigned lane = threadIdx.x, half = lane / 16;
  cuda::copy_async(tile_a + lane * 8, a + lane * 8, true);
  cuda::copy_async(tile_b + lane * 8, b + lane % 16 * 8, half == 0);
  cuda::commit_copies();
  cuda::wait_copies<0>();
  __syncwarp();
  unsigned of_a[4], of_b[4];
  if (Transposed)
    cuda::load_matrices_transposed(of_a, tile_a + (lane % 8 + half * 8) * 16 + lane / 8 % 2 * 8);
  else
    cuda::load_matrices(of_a, tile_a + lane % 16 * 16 + half * 8);
  cuda::load_matrices_transposed(of_b, tile_b + lane % 16 * 8);
  float sums[4] = {};
  cuda::mma(sums, of_a, {of_b[0], of_b[1]});
  for (unsigned i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

TEST_F(MmaTest, AWarpMultiplies) {
  for_each_schedule([] {
    const std::vector<bf16> a = random_bf16(256, 4), b = random_bf16(128, 5);
    std::vector<bf16> columns(256);
    for (size_t i = 0; i < 256; ++i) columns[i % 16 * 16 + i / 16] = a[i];
    const std::vector<float> zeros(128);
    DeviceArray<bf16> to_a(a), to_columns(columns), to_b(b);
    DeviceArray<float> d(zeros);
    launch<product_kernel<false>>(1, 32, 0, nullptr, to_a, to_b, d);
    expect_product(a, b, zeros, d.host());
    launch<product_kernel<true>>(1, 32, 0, nullptr, to_columns, to_b, d);
    expect_product(a, b, zeros, d.host());
  });
}

// Small whole numbers: every sum is exact, whatever its order. Tensor cores must agree with the
// naive kernels bit for bit, for a device that these shapes fill and for one that they do not.
Tensor whole_numbers(const Shape& shape, uint64_t seed) {
  RandomSequence random(RandomKey{seed, 0});
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (double& v : values) v = static_cast<double>(random.below(9)) - 4.0;
  return Tensor::from(values, shape).cast(DType::bf16).to(Device{DeviceType::cuda, 0});
}
template <typename F>
void expect_exact(F product) {
  cuda::set_kernel_choice(cuda::KernelChoice::naive);
  const std::vector<double> want = product().template to_vector<double>();
  cuda::set_kernel_choice(cuda::KernelChoice::tuned);
  for (const int64_t blocks : {cuda::kEnoughBlocks, int64_t{4}}) {
    cuda::set_enough_blocks(blocks);
    EXPECT_EQ(product().template to_vector<double>(), want) << blocks << " blocks fill the device";
  }
  cuda::set_enough_blocks(cuda::kEnoughBlocks);
}

TEST_F(MmaTest, MatrixProductsAreExactOnWholeNumbers) {
  cuda::install();
  struct Case {
    int64_t batch, m, n, k;
  };
  for (const bool trans_a : {false, true})
    for (const bool trans_b : {false, true})
      for (const auto& [batch, m, n, k] :
           {Case{1, 8, 8, 8}, Case{1, 136, 72, 72}, Case{1, 72, 80, 520}, Case{3, 24, 40, 32}}) {
        SCOPED_TRACE(fmt::format("{} x {} x {} x {}, {} {}", batch, m, n, k, trans_a, trans_b));
        const Tensor a = whole_numbers(trans_a ? Shape{batch, k, m} : Shape{batch, m, k}, 1);
        const Tensor b = whole_numbers(trans_b ? Shape{batch, n, k} : Shape{batch, k, n}, 2);
        for (const DType dtype : {DType::bf16, DType::f32})
          expect_exact([&] {
            Tensor out = Tensor::full({batch, m, n}, 2.0, dtype, a.device());
            ops::matmul_into(a, b, {trans_a, trans_b, 0.5, -1.0}, out);
            return out;
          });
      }
}

TEST_F(MmaTest, ConvolutionsAreExactOnWholeNumbers) {
  cuda::install();
  struct Case {
    int64_t n, h, w, c_in, c_out, kh, kw;
    ConvArgs args;
  };
  for (const auto& [n, h, w, c_in, c_out, kh, kw, args] :
       {Case{2, 17, 16, 8, 8, 3, 3, {.padding = 1}}, Case{1, 9, 11, 72, 80, 3, 3, {.padding = 1}},
        Case{3, 8, 7, 16, 136, 1, 1, {.stride = 2}},
        Case{1, 15, 14, 8, 24, 7, 7, {.stride = 3, .padding = 3}},
        Case{2, 9, 8, 160, 192, 3, 2, {.stride = 2, .padding = 1, .groups = 2}}}) {
    SCOPED_TRACE(fmt::format("{} channels to {}", c_in, c_out));
    const ConvArgs& how = args;
    const Shape x_shape{n, h, w, c_in}, w_shape{c_out, kh, kw, c_in / args.groups};
    const Tensor x = whole_numbers(x_shape, 3), weights = whole_numbers(w_shape, 4);
    const Tensor dy = whole_numbers(ops::conv2d(x, weights, args).shape(), 5);
    expect_exact([&] { return ops::conv2d(x, weights, how); });
    expect_exact([&] { return ops::conv2d_backward_input(dy, weights, x_shape, how); });
    expect_exact([&] { return ops::conv2d_backward_weight(x, dy, w_shape, how); });
  }
}

// What the emulator cannot show: the 8 rows of a matrix at one chunk, and the 8 chunks that
// neighbouring threads copy, are in different banks.
template <int kChunks>
void expect_no_bank_conflicts() {
  const auto bank = [](int row, int chunk) {
    return static_cast<unsigned>(cuda::swizzled<kChunks>(row, chunk) / cuda::kChunk % 8);
  };
  for (int row = 0; row < 32; row += 8)
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      unsigned banks = 0;
      for (int i = 0; i < 8; ++i) banks |= 1u << bank(row + i, chunk);
      EXPECT_EQ(banks, 0xffu) << kChunks << " chunks, rows from " << row << ", chunk " << chunk;
    }
  for (int first = 0; first < 32 * kChunks; first += 8) {
    unsigned banks = 0;
    for (int i = first; i < first + 8; ++i) banks |= 1u << bank(i / kChunks, i % kChunks);
    EXPECT_EQ(banks, 0xffu) << kChunks << " chunks, copies from " << first;
  }
  std::set<int> places;
  for (int i = 0; i < 32 * kChunks; ++i)
    places.insert(cuda::swizzled<kChunks>(i / kChunks, i % kChunks));
  EXPECT_EQ(places.size(), size_t{32} * kChunks);
  EXPECT_EQ(*places.rbegin(), (32 * kChunks - 1) * cuda::kChunk);
}

TEST_F(MmaTest, TheSwizzleSpreadsOverTheBanks) {
  expect_no_bank_conflicts<4>();
  expect_no_bank_conflicts<8>();
  expect_no_bank_conflicts<16>();
}

TEST_F(MmaTest, DivisorsDivide) {
  for (int64_t d = 1; d < 3000; d = d < 70 ? d + 1 : d * 5 / 4) {
    const cuda::Divisor divisor(d);
    const auto expect_quotient = [&](int64_t n) {
      int rest;
      ASSERT_EQ(divisor.divide(static_cast<int>(n), rest), n / d) << n << " / " << d;
      ASSERT_EQ(rest, n % d);
    };
    for (int64_t n = 0; n < 1000; ++n) {
      expect_quotient(n);
      expect_quotient(std::numeric_limits<int>::max() - n);
      expect_quotient(std::max<int64_t>(0, (1 + n * 2000000) / d * d - n % 2));
    }
  }
}

// ---- copies

// grid 1, block 64; thread i brings x[4 i ... 4 i + 3] and reads what thread 63 - i brought.
template <bool Wait>
__global__ void reverse_kernel(const float* x, float* y, int n) {
  SHARED_ARRAY(float, tile, 256);
  const int i = static_cast<int>(threadIdx.x);
  cuda::copy_async(tile + 4 * i, x + 4 * i, 4 * i < n);
  cuda::commit_copies();
  if (Wait) cuda::wait_copies<0>();
  __syncthreads();
  for (int k = 0; k < 4; ++k) y[4 * i + k] = tile[4 * (63 - i) + k];
}

TEST_F(MmaTest, CopiesArriveAtTheWait) {
  for_each_schedule([] {
    DeviceArray<float> x(counting(256)), y(counting(256));
    launch<reverse_kernel<true>>(1, 64, 0, nullptr, x, y, 200);
    const std::vector<float> got = y.host();
    for (size_t i = 0; i < 256; ++i) {
      const size_t from = 4 * (63 - i / 4) + i % 4;
      ASSERT_EQ(got[i], from < 200 ? static_cast<float>(from) : 0.0f) << i;
    }
    launch<reverse_kernel<false>>(1, 64, 0, nullptr, x, y, 200);
    for (const float v : y.host()) ASSERT_TRUE(std::isnan(v)) << "nobody waited";
  });
}

// grid 1, block 32; y is (3, 32): groups 0 to 2 as seen with `Pending` of them under way
template <int Pending>
__global__ void groups_kernel(const float* x, float* y) {
  SHARED_ARRAY(float, tile, 3 * 128);
  const unsigned i = threadIdx.x;
  for (unsigned group = 0; group < 3; ++group) {
    cuda::copy_async(tile + group * 128 + 4 * i, x + 4 * i, true);
    cuda::commit_copies();
  }
  cuda::wait_copies<Pending>();
  for (unsigned group = 0; group < 3; ++group) y[group * 32 + i] = tile[group * 128 + 4 * i];
}

TEST_F(MmaTest, TheNewestGroupsStayUnderWay) {
  DeviceArray<float> x(counting(128)), y(counting(96));
  const auto arrived = [&] {
    size_t n = 0;
    for (const float v : y.host()) n += std::isnan(v) ? 0 : 1;
    return n;
  };
  launch<groups_kernel<2>>(1, 32, 0, nullptr, x, y);
  EXPECT_EQ(arrived(), 32u);
  launch<groups_kernel<1>>(1, 32, 0, nullptr, x, y);
  EXPECT_EQ(arrived(), 64u);
  EXPECT_TRUE(std::isnan(y.host()[95]));
  EXPECT_EQ(y.host()[63], 124.0f);
  launch<groups_kernel<0>>(1, 32, 0, nullptr, x, y);
  EXPECT_EQ(arrived(), 96u);
}

// grid 1, block 64: fetches the next tile while a slow warp may still read this one.
template <bool Barrier>
__global__ void overwriting_kernel(const float* x, float* y) {
  SHARED_ARRAY(float, tile, 256);
  const unsigned i = threadIdx.x;
  float sum = 0;
  for (unsigned round = 0; round < 3; ++round) {
    cuda::copy_async(tile + 4 * i, x + 4 * i, true);
    cuda::commit_copies();
    if (round > 0) __syncthreads();  // what else there is to do
    cuda::wait_copies<0>();
    __syncthreads();
    sum += tile[4 * (63 - i)];
    if (Barrier) __syncthreads();
  }
  y[i] = sum;
}

#if !defined(__SANITIZE_THREAD__)  // a race on purpose
TEST_F(MmaTest, ACopyOverWhatIsStillReadGivesNaN) {
  DeviceArray<float> x(counting(256)), y(counting(64));
  const auto nans = [&] {
    size_t n = 0;
    for (const float v : y.host()) n += std::isnan(v) ? 1 : 0;
    return n;
  };
  size_t seen = 0;
  for_each_schedule([&] {
    launch<overwriting_kernel<true>>(1, 64, 0, nullptr, x, y);
    EXPECT_EQ(nans(), 0u);
    launch<overwriting_kernel<false>>(1, 64, 0, nullptr, x, y);
    seen += nans();
  });
  EXPECT_GT(seen, 0u);
}
#endif

__global__ void misaligned_kernel(const float* x, float* y) {
  SHARED_ARRAY(float, tile, 256);
  cuda::copy_async(tile + 4 * threadIdx.x, x + 1, true);
  y[threadIdx.x] = 0;
}

TEST_F(MmaTest, AMisalignedCopyIsNamed) {
  DeviceArray<float> x(counting(256)), y(counting(64));
  launch<misaligned_kernel>(1, 32, 0, nullptr, x, y);
  test::expect_fault({"multiple of 16", "mma_test.cpp:"});
}

}  // namespace
}  // namespace facet
