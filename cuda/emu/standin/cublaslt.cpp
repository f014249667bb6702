// cuBLASLt's products by plain loops, with cuBLASLt's own conventions: column-major matrices with
// leading dimensions, the bias along D's rows, C read only where beta is not 0, an algorithm good
// for the problem, the alignments and the workspace that it was asked for. What facet does not use
// is refused.
#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "cuda/emu/runtime.h"
#include "tensor/dtype.h"
#include "tensor/hash.h"

namespace facet::emu {

struct LtHandle {
  int device = 0;
};
struct LtProduct {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  int32_t trans_a = CUBLAS_OP_N, trans_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
};
struct LtLayout {
  cudaDataType_t type;
  int64_t rows, cols, ld;
  int32_t batch = 1;
  int64_t batch_stride = 0;
  int64_t at(int64_t slice, int64_t row, int64_t col) const {
    return slice * batch_stride + col * ld + row;
  }
  bool same_shape(const LtLayout& o) const {
    return rows == o.rows && cols == o.cols && batch == o.batch;
  }
};
struct LtPreference {
  uint64_t workspace = 0;
  uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

namespace {

constexpr uint64_t kWorkspace = 4096;  // that the algorithm asks for, where it may

// What an algorithm carries: the problem it is for, and the alignment of A, B, C, D and the bias.
struct Algorithm {
  uint64_t problem;
  uint64_t workspace;
  uint32_t alignment[5];
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

template <typename Field>
cublasStatus_t store(Field& field, const void* value, size_t bytes) {
  if (!value || bytes != sizeof field) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

struct Problem {
  LtProduct product;
  LtLayout a, b, c, d;

  int64_t depth() const { return product.trans_a == CUBLAS_OP_N ? a.cols : a.rows; }
  uint64_t hash() const {  // of all but the bias's address
    std::vector<int64_t> values = {product.compute, product.scale, product.trans_a, product.trans_b,
                                   product.epilogue};
    for (const LtLayout& l : {a, b, c, d})
      values.insert(values.end(), {l.type, l.rows, l.cols, l.ld, l.batch, l.batch_stride});
    return facet::fnv1a(
        {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int64_t)});
  }
  cublasStatus_t check() const {
    for (const LtLayout& l : {a, b, c, d})
      if (l.rows < 1 || l.cols < 1 || l.ld < l.rows || l.batch < 1 ||
          (l.batch > 1 && l.batch_stride < 1))
        return CUBLAS_STATUS_INVALID_VALUE;
    const bool plain_a = product.trans_a == CUBLAS_OP_N, plain_b = product.trans_b == CUBLAS_OP_N;
    if ((!plain_a && product.trans_a != CUBLAS_OP_T) ||
        (!plain_b && product.trans_b != CUBLAS_OP_T))
      return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((plain_a ? a.rows : a.cols) != d.rows || (plain_b ? b.cols : b.rows) != d.cols ||
        (plain_b ? b.rows : b.cols) != depth() || a.batch != d.batch || b.batch != d.batch ||
        !c.same_shape(d) || c.type != d.type)
      return CUBLAS_STATUS_INVALID_VALUE;
    const bool has_bias = product.epilogue == CUBLASLT_EPILOGUE_BIAS;
    if (!has_bias && product.epilogue != CUBLASLT_EPILOGUE_DEFAULT)
      return CUBLAS_STATUS_NOT_SUPPORTED;
    if (product.compute == CUBLAS_COMPUTE_64F)
      // No epilogue here, so that facet's way around a refusal is walked.
      return product.scale == CUDA_R_64F && a.type == CUDA_R_64F && b.type == CUDA_R_64F &&
                     d.type == CUDA_R_64F && !has_bias
                 ? CUBLAS_STATUS_SUCCESS
                 : CUBLAS_STATUS_NOT_SUPPORTED;
    if (product.compute != CUBLAS_COMPUTE_32F || product.scale != CUDA_R_32F || a.type != b.type)
      return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool from_f32 = a.type == CUDA_R_32F && d.type == CUDA_R_32F;
    const bool from_bf16 = a.type == CUDA_R_16BF && (d.type == CUDA_R_16BF || d.type == CUDA_R_32F);
    return from_f32 || from_bf16 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  }
};

template <typename In, typename Out, typename Scale>
void multiply(const Problem& p, Scale alpha, const In* a, const In* b, Scale beta, const Out* c,
              Out* d) {
  const auto* const bias = static_cast<const Out*>(p.product.bias);
  for (int64_t slice = 0; slice < p.d.batch; ++slice)
    for (int64_t col = 0; col < p.d.cols; ++col)
      for (int64_t row = 0; row < p.d.rows; ++row) {
        Scale sum = 0;
        for (int64_t k = 0; k < p.depth(); ++k) {
          const In left = a[p.product.trans_a ? p.a.at(slice, k, row) : p.a.at(slice, row, k)];
          const In right = b[p.product.trans_b ? p.b.at(slice, col, k) : p.b.at(slice, k, col)];
          sum += static_cast<Scale>(left) * static_cast<Scale>(right);
        }
        Scale value = alpha * sum;
        if (beta != 0) value += beta * static_cast<Scale>(c[p.c.at(slice, row, col)]);
        if (p.product.epilogue == CUBLASLT_EPILOGUE_BIAS) value += static_cast<Scale>(bias[row]);
        d[p.d.at(slice, row, col)] = static_cast<Out>(value);
      }
}

template <typename In, typename Out>
void enqueue_product(cudaStream_t stream, const Problem& p, const void* alpha, const void* a,
                     const void* b, const void* beta, const void* c, void* d, void* workspace,
                     size_t workspace_bytes) {
  using Scale = acc_t<In>;
  enqueue(stream,
          [=, scale = *static_cast<const Scale*>(alpha), keep = *static_cast<const Scale*>(beta)] {
            if (workspace_bytes > 0) std::memset(workspace, 0xff, workspace_bytes);
            multiply(p, scale, static_cast<const In*>(a), static_cast<const In*>(b), keep,
                     static_cast<const Out*>(c), static_cast<Out*>(d));
          });
}

bool aligned(const void* at, uint64_t bytes) {
  return at && reinterpret_cast<uintptr_t>(at) % bytes == 0;
}

}  // namespace
}  // namespace facet::emu

using namespace facet::emu;

size_t cublasLtGetVersion() {
  return 0;
}
const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) { FACET_CUBLAS_STATUSES(FACET_NAME_CASE) }
  return "unknown";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  if (!facet::emu::machine().vendor_handles && cudaSetDevice(-1))  // CUDA's last error stays, too
    return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = new LtHandle;
  cudaGetDevice(&(*handle)->device);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product) {
  delete product;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* product, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  *product = new LtProduct{compute, scale};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product,
                                              cublasLtMatmulDescAttributes_t name,
                                              const void* value, size_t bytes) {
  if (!product) return CUBLAS_STATUS_INVALID_VALUE;
  switch (name) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return store(product->trans_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return store(product->trans_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return store(product->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return store(product->bias, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  *layout = new LtLayout{type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t name,
                                                const void* value, size_t bytes) {
  if (!layout) return CUBLAS_STATUS_INVALID_VALUE;
  switch (name) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return store(layout->batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return store(layout->batch_stride, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new LtPreference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void* value, size_t bytes) {
  if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
  switch (name) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return store(preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return store(preference->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return store(preference->alignment[name - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value,
                   bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* returned) {
  *returned = 0;
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!product || !a || !b || !c || !d || !preference || requested < 1)
    return CUBLAS_STATUS_INVALID_VALUE;
  const Problem problem{*product, *a, *b, *c, *d};
  if (const cublasStatus_t status = problem.check(); status != CUBLAS_STATUS_SUCCESS) return status;
  if (faults().refuse_products) return CUBLAS_STATUS_NOT_SUPPORTED;
  Algorithm algorithm{problem.hash(), preference->workspace >= kWorkspace ? kWorkspace : 0, {}};
  std::copy_n(preference->alignment, 4, algorithm.alignment);
  // The bias is taken to be as well aligned later as it is now.
  const auto bias = reinterpret_cast<uintptr_t>(product->bias) | 16;
  algorithm.alignment[4] = static_cast<uint32_t>(bias & -bias);
  results[0] = {};
  std::memcpy(&results[0].algo, &algorithm, sizeof algorithm);
  results[0].workspaceSize = algorithm.workspace;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  *returned = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!product || !a_layout || !b_layout || !c_layout || !d_layout || !alpha || !beta)
    return CUBLAS_STATUS_INVALID_VALUE;
  if (!algorithm) return CUBLAS_STATUS_NOT_SUPPORTED;
  Algorithm chosen;
  std::memcpy(&chosen, algorithm, sizeof chosen);
  const Problem p{*product, *a_layout, *b_layout, *c_layout, *d_layout};
  int device = -1;
  cudaGetDevice(&device);
  if (device != handle->device || p.check() != CUBLAS_STATUS_SUCCESS ||
      chosen.problem != p.hash() || !aligned(a, chosen.alignment[0]) ||
      !aligned(b, chosen.alignment[1]) || !aligned(c, chosen.alignment[2]) ||
      !aligned(d, chosen.alignment[3]) ||
      (p.product.epilogue == CUBLASLT_EPILOGUE_BIAS &&
       !aligned(p.product.bias, chosen.alignment[4])) ||
      workspace_bytes < chosen.workspace || (chosen.workspace > 0 && !aligned(workspace, 256)) ||
      (c == d && c_layout->ld != d_layout->ld))
    return CUBLAS_STATUS_INVALID_VALUE;
  const auto with = [&](auto in, auto out) {
    enqueue_product<decltype(in), decltype(out)>(stream, p, alpha, a, b, beta, c, d, workspace,
                                                 chosen.workspace);
    return CUBLAS_STATUS_SUCCESS;
  };
  if (p.a.type == CUDA_R_64F) return with(double{}, double{});
  if (p.a.type == CUDA_R_32F) return with(float{}, float{});
  return p.d.type == CUDA_R_32F ? with(facet::bf16{}, float{}) : with(facet::bf16{}, facet::bf16{});
}
