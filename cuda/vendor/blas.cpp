#include "cuda/vendor/blas.h"

#include <cublasLt.h>

#include <array>

#include "cuda/runtime.h"
#include "cuda/vendor/library.h"

namespace facet::cuda::vendor {
namespace {

constexpr uint64_t kWorkspaceBytes = uint64_t{32} << 20;

struct CublasLt : Library {
  CublasLt() : Library("cuBLASLt", {"libcublasLt.so.13", "libcublasLt.so.12"}) {}
  VENDOR_FUNCTION(cublasLtGetVersion);
  VENDOR_FUNCTION(cublasLtGetStatusName);
  VENDOR_FUNCTION(cublasLtCreate);
  VENDOR_FUNCTION(cublasLtMatmulDescCreate);
  VENDOR_FUNCTION(cublasLtMatmulDescSetAttribute);
  VENDOR_FUNCTION(cublasLtMatrixLayoutCreate);
  VENDOR_FUNCTION(cublasLtMatrixLayoutSetAttribute);
  VENDOR_FUNCTION(cublasLtMatmulPreferenceCreate);
  VENDOR_FUNCTION(cublasLtMatmulPreferenceSetAttribute);
  VENDOR_FUNCTION(cublasLtMatmulPreferenceDestroy);
  VENDOR_FUNCTION(cublasLtMatmulAlgoGetHeuristic);
  VENDOR_FUNCTION(cublasLtMatmul);
};
const CublasLt& lt() {
  static const auto* const library = new CublasLt;
  return *library;
}

void check_blas(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error("{}: {}", call, lt().cublasLtGetStatusName(status));
}

template <typename Value>
void set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t name, Value value) {
  check_blas(lt().cublasLtMatmulDescSetAttribute(product, name, &value, sizeof value),
             "cublasLtMatmulDescSetAttribute");
}
template <typename Value>
void set(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t name, Value value) {
  check_blas(lt().cublasLtMatrixLayoutSetAttribute(layout, name, &value, sizeof value),
             "cublasLtMatrixLayoutSetAttribute");
}
template <typename Value>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t name,
         Value value) {
  check_blas(lt().cublasLtMatmulPreferenceSetAttribute(preference, name, &value, sizeof value),
             "cublasLtMatmulPreferenceSetAttribute");
}

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::f32 ? CUDA_R_32F : dtype == DType::f64 ? CUDA_R_64F : CUDA_R_16BF;
}

// A row-major matrix (R, C), as cuBLASLt sees it: column-major, C rows and R columns.
cublasLtMatrixLayout_t layout_of(const Tensor& t) {
  const int64_t rows = t.dim(-1), cols = t.dim(-2);
  cublasLtMatrixLayout_t layout = nullptr;
  check_blas(
      lt().cublasLtMatrixLayoutCreate(&layout, type_of(t.dtype()), static_cast<uint64_t>(rows),
                                      static_cast<uint64_t>(cols), rows),
      "cublasLtMatrixLayoutCreate");
  if (t.rank() == 3) {
    set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(t.dim(0)));
    set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, rows * cols);
  }
  return layout;
}

// Everything that the choice of an algorithm depends on. Transposed, out = op(a) op(b) reads
// out^T = op(b)^T op(a)^T, and what is transposed in memory is a column-major matrix: cuBLASLt is
// given b first and a second, each with its own flag. The columns of out are its rows, which is
// where its bias runs.
struct ProductPlan {
  bool possible = false;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

using Key = std::array<int64_t, 14>;
Key key_of(const Tensor& a, const Tensor& b, const Tensor& bias, const MatmulArgs& args,
           const Tensor& out) {
  return {out.rank() == 3 ? out.dim(0) : 0,
          out.dim(-2),
          out.dim(-1),
          a.dim(args.trans_a ? -2 : -1),
          args.trans_a,
          args.trans_b,
          static_cast<int64_t>(a.dtype()),
          static_cast<int64_t>(out.dtype()),
          bias.defined(),
          alignment(a),
          alignment(b),
          alignment(out),
          bias.defined() ? alignment(bias) : 0};
}

ProductPlan make_plan(cublasLtHandle_t handle, const Tensor& a, const Tensor& b, const Tensor& bias,
                      const MatmulArgs& args, const Tensor& out) {
  ProductPlan plan{.first = layout_of(b), .second = layout_of(a), .out = layout_of(out)};
  const bool is_double = a.dtype() == DType::f64;
  // Not one of the kinds that round f32 to TF32.
  check_blas(lt().cublasLtMatmulDescCreate(&plan.product,
                                           is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                           is_double ? CUDA_R_64F : CUDA_R_32F),
             "cublasLtMatmulDescCreate");
  const auto op = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  set(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, static_cast<int32_t>(op(args.trans_b)));
  set(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, static_cast<int32_t>(op(args.trans_a)));
  if (bias.defined()) {
    set(plan.product, CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(CUBLASLT_EPILOGUE_BIAS));
    set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.raw());
  }
  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(lt().cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  // Parts of a sum are added up as they were computed, not rounded to out's type in between.
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  const auto aligned = [&](cublasLtMatmulPreferenceAttributes_t name, const Tensor& t) {
    set(preference, name, static_cast<uint32_t>(alignment(t)));
  };
  aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b);
  aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a);
  aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out);
  aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out);
  cublasLtMatmulHeuristicResult_t best{};
  int count = 0;
  const cublasStatus_t status =
      lt().cublasLtMatmulAlgoGetHeuristic(handle, plan.product, plan.first, plan.second, plan.out,
                                          plan.out, preference, 1, &best, &count);
  check_blas(lt().cublasLtMatmulPreferenceDestroy(preference), "cublasLtMatmulPreferenceDestroy");
  plan.possible =
      status == CUBLAS_STATUS_SUCCESS && count == 1 && best.state == CUBLAS_STATUS_SUCCESS;
  plan.algorithm = best.algo;
  if (!plan.possible)
    note_refusal(fmt::format("cublasLtMatmulAlgoGetHeuristic: {} for {} by {}",
                             lt().cublasLtGetStatusName(status), a.str(), b.str()));
  return plan;
}

struct BlasState {
  std::mutex mutex;
  bool asked = false;  // for a handle
  cublasLtHandle_t handle = nullptr;
  Workspace workspace;  // always the same one, so that results are, too
  std::map<Key, ProductPlan> plans;
};

}  // namespace

bool matmul(const Tensor& a, const Tensor& b, const Tensor& bias, const MatmulArgs& args,
            Tensor& out) {
  // Sums of nothing are no product to cuBLASLt, and its bias would be of out's type.
  if (!lt().found() || a.numel() == 0 || (bias.defined() && bias.dtype() != out.dtype()))
    return false;
  const Device device = out.device();
  const DeviceGuard guard(device.index);
  auto& state = state_of<BlasState>(device.index);
  const std::lock_guard lock(state.mutex);
  if (!state.asked) {
    state.workspace = Workspace(kWorkspaceBytes, device);
    state.asked = true;
    if (const cublasStatus_t status = lt().cublasLtCreate(&state.handle);
        status != CUBLAS_STATUS_SUCCESS) {
      state.handle = nullptr;
      note_refusal(fmt::format("cublasLtCreate: {}", lt().cublasLtGetStatusName(status)));
    }
  }
  if (!state.handle) return false;
  const Key key = key_of(a, b, bias, args, out);
  auto found = state.plans.find(key);
  if (found == state.plans.end())
    found = state.plans.emplace(key, make_plan(state.handle, a, b, bias, args, out)).first;
  const ProductPlan& plan = found->second;
  if (!plan.possible) return false;
  if (bias.defined()) set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.raw());
  const auto alpha = static_cast<float>(args.alpha), beta = static_cast<float>(args.beta);
  const bool is_double = a.dtype() == DType::f64;
  const void* const scale = is_double ? static_cast<const void*>(&args.alpha) : &alpha;
  const void* const keep = is_double ? static_cast<const void*>(&args.beta) : &beta;
  check_blas(lt().cublasLtMatmul(state.handle, plan.product, scale, b.raw(), plan.first, a.raw(),
                                 plan.second, keep, out.raw(), plan.out, out.raw(), plan.out,
                                 &plan.algorithm, state.workspace.data(), kWorkspaceBytes,
                                 stream(device.index)),
             "cublasLtMatmul");
  count_call();
  return true;
}

std::string blas_library() {
  return lt().found() ? lt().describe(static_cast<int64_t>(lt().cublasLtGetVersion()))
                      : lt().describe_missing();
}

}  // namespace facet::cuda::vendor
