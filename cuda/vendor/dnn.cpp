// cuDNN 9's graph API. An operation is described by a tree of descriptors; heuristics propose
// engines for it, best first; an engine gives a plan, a plan is executed. An epilogue is a chain of
// pointwise operations behind the convolution, whose results in between are virtual.
#include "cuda/vendor/dnn.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>

#include "cuda/runtime.h"
#include "cuda/vendor/dnn_descriptor.h"

namespace facet::cuda::vendor {
namespace {

constexpr int64_t kMostWorkspace = int64_t{1} << 30;  // plans that want more are not taken
constexpr int64_t kMostEngines = 32;                  // that are asked for in each mode
constexpr int kTriedPlans = 4, kTriedRuns = 3;        // where the fastest one is looked for

std::atomic<PlanChoice> plan_choice{PlanChoice::first};

// The names of one direction. x, w and y are the places of the three tensors, whichever of them is
// computed.
struct Direction {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t convolution, x, w, y, alpha, beta;
};
#define DIRECTION(descriptor, names, x, w, y)                      \
  {                                                                \
    CUDNN_BACKEND_OPERATION_CONVOLUTION_##descriptor##_DESCRIPTOR, \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##names##_CONV_DESC,      \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##names##_##x,            \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##names##_##w,            \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##names##_##y,            \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##names##_ALPHA,          \
        CUDNN_ATTR_OPERATION_CONVOLUTION_##names##_BETA            \
  }
constexpr Direction kForward = DIRECTION(FORWARD, FORWARD, X, W, Y);
constexpr Direction kBackwardInput = DIRECTION(BACKWARD_DATA, BWD_DATA, DX, W, DY);
constexpr Direction kBackwardWeight = DIRECTION(BACKWARD_FILTER, BWD_FILTER, X, DW, DY);
#undef DIRECTION

using PlanKey = std::array<int64_t, 27>;

// One convolution in one direction.
struct Call {
  const Direction& direction;
  const Tensor &x, &w, &y;
  const ConvArgs& args;
  const ConvEpilogue& epilogue;

  // Their places are their ids in cuDNN's graph.
  std::vector<const Tensor*> tensors() const {
    std::vector<const Tensor*> all = {&x, &w, &y};
    for (const Tensor* t : {&epilogue.bias, &epilogue.residual})
      if (t->defined()) all.push_back(t);
    return all;
  }
  PlanKey key() const {
    PlanKey key{direction.type,
                args.stride,
                args.padding,
                args.groups,
                epilogue.bias.defined(),
                epilogue.residual.defined(),
                epilogue.relu};
    size_t at = 7;
    for (const Tensor* t : {&x, &w, &y}) {
      for (int axis = 0; axis < 4; ++axis) key[at++] = t->dim(axis);
      key[at++] = static_cast<int64_t>(t->dtype());
      key[at++] = alignment(*t);
    }
    if (epilogue.bias.defined()) key[at++] = alignment(epilogue.bias);
    if (epilogue.residual.defined()) key[at++] = alignment(epilogue.residual);
    return key;
  }
  std::string str() const {
    return fmt::format("convolution of {} by {} to {}", x.str(), w.str(), y.str());
  }
};

// Sizes and strides of an NHWC tensor, of weights (Cout, kh, kw, Cin / groups) or of a bias (Cout),
// in cuDNN's order N, C, H, W. A virtual tensor lies between two operations and has no memory.
Descriptor tensor_descriptor(const Tensor& t, int64_t id, bool is_virtual = false) {
  if (t.rank() == 1) return tensor_descriptor(t.reshape({1, 1, 1, t.numel()}), id, is_virtual);
  const int64_t n = t.dim(0), h = t.dim(1), w = t.dim(2), c = t.dim(3);
  Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, {id});
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE,
        {t.dtype() == DType::f32 || is_virtual ? CUDNN_DATA_FLOAT : CUDNN_DATA_BFLOAT16});
  d.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, {alignment(t)});
  d.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, {n, c, h, w});
  d.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, {h * w * c, int64_t{1}, w * c, c});
  if (is_virtual) d.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, {true});
  d.finalize();
  return d;
}

// Operations, and all that they are made of.
struct Operations {
  std::vector<Descriptor> parts;
  std::vector<cudnnBackendDescriptor_t> raw;

  void add(Descriptor operation) {
    operation.finalize();
    raw.push_back(operation.raw());
    parts.push_back(std::move(operation));
  }
};

// The number of groups is not said: cuDNN sees it from the channels of x and w.
Operations describe(const Call& call) {
  Operations result;
  std::vector<Descriptor>& parts = result.parts;
  for (const Tensor* t : call.tensors())
    parts.push_back(tensor_descriptor(*t, static_cast<int64_t>(parts.size())));
  Descriptor window(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  const int64_t stride = call.args.stride, padding = call.args.padding;
  window.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, {int64_t{2}});
  window.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, {CUDNN_DATA_FLOAT});
  window.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE,
             {CUDNN_CROSS_CORRELATION});
  window.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, {stride, stride});
  window.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, {int64_t{1}, int64_t{1}});
  window.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, {padding, padding});
  window.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, {padding, padding});
  window.finalize();
  // What is done to the sums, one after the other, and the tensor that is added. An f32 gradient of
  // bf16 factors: cuDNN has engines for it only where the sums are not the end, so an identity
  // passes them on.
  struct Step {
    cudnnPointwiseMode_t mode;
    int64_t beside;  // -1: none
  };
  std::vector<Step> steps;
  const size_t first_step = parts.size();
  for (int64_t beside = 3; beside < static_cast<int64_t>(first_step); ++beside)
    steps.push_back({CUDNN_POINTWISE_ADD, beside});
  if (call.epilogue.relu) steps.push_back({CUDNN_POINTWISE_RELU_FWD, -1});
  if (call.w.dtype() != call.x.dtype()) steps.push_back({CUDNN_POINTWISE_IDENTITY, -1});
  // The places of x, w and y; the one that is computed is the last step's.
  const size_t output = call.direction.type == kForward.type         ? 2
                        : call.direction.type == kBackwardInput.type ? 0
                                                                     : 1;
  for (size_t i = 0; i < steps.size(); ++i)
    parts.push_back(tensor_descriptor(*call.tensors()[output], static_cast<int64_t>(parts.size()),
                                      /*is_virtual=*/true));
  const auto place = [&](size_t tensor) -> const Descriptor& {
    return parts[tensor == output && !steps.empty() ? first_step : tensor];
  };
  Descriptor operation(call.direction.type);
  operation.set(call.direction.convolution, window);
  operation.set(call.direction.x, place(0));
  operation.set(call.direction.w, place(1));
  operation.set(call.direction.y, place(2));
  operation.set(call.direction.alpha, CUDNN_TYPE_FLOAT, {1.0f});
  operation.set(call.direction.beta, CUDNN_TYPE_FLOAT, {0.0f});
  std::vector<Descriptor> made;  // `parts` does not move while it is referred to
  made.push_back(std::move(window));
  result.add(std::move(operation));
  for (size_t i = 0; i < steps.size(); ++i) {
    Descriptor kind(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    kind.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, {steps[i].mode});
    kind.set(CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, {CUDNN_DATA_FLOAT});
    kind.finalize();
    Descriptor step(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    step.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind);
    step.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, parts[first_step + i]);
    if (steps[i].beside >= 0)
      step.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, parts[static_cast<size_t>(steps[i].beside)]);
    step.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC,
             i + 1 < steps.size() ? parts[first_step + i + 1] : parts[output]);
    made.push_back(std::move(kind));
    result.add(std::move(step));
  }
  for (Descriptor& d : made) parts.push_back(std::move(d));
  return result;
}

// Whether the configuration's engine gives the same bits every time, and f32 sums of f32.
bool is_exact(const Descriptor& config, bool is_f32) {
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t raw = engine.raw();
  config.get(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &raw);
  std::array<cudnnBackendNumericalNote_t, CUDNN_NUMERICAL_NOTE_TYPE_COUNT> notes{};
  const int64_t count = engine.get(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                   static_cast<int64_t>(notes.size()), notes.data());
  return std::none_of(notes.begin(), notes.begin() + count, [&](auto note) {
    switch (note) {
      case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
      case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
      case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13: return true;
      case CUDNN_NUMERICAL_NOTE_TENSOR_CORE: return is_f32;  // which would be TF32
      default: return false;
    }
  });
}

// A plan, and all that it may look at later.
struct Plan {
  std::optional<Descriptor> plan;  // none: cuDNN refuses
  int64_t workspace = 0;
  std::vector<Descriptor> parts;
};

struct DnnState {
  std::mutex mutex;    // a handle is for one thread at a time
  bool asked = false;  // for a handle
  cudnnHandle_t handle = nullptr;
  std::map<PlanKey, Plan> plans;
};

void execute(cudnnHandle_t handle, const Descriptor& plan, int64_t workspace_bytes,
             const Call& call) {
  const Workspace workspace(workspace_bytes, call.x.device());
  std::vector<int64_t> ids;
  std::vector<void*> pointers;
  for (const Tensor* t : call.tensors()) {
    ids.push_back(static_cast<int64_t>(ids.size()));
    pointers.push_back(const_cast<void*>(t->raw()));
  }
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, ids.size(), ids.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers.size(),
           pointers.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, {workspace.data()});
  pack.finalize();
  check_dnn(dnn().cudnnBackendExecute(handle, plan.raw(), pack.raw()), "cudnnBackendExecute");
}

// Seconds of some executions; waits for them.
double time(cudnnHandle_t handle, const Descriptor& plan, int64_t workspace, const Call& call) {
  DeviceTimer timer(call.x.device().index);
  timer.start();
  for (int i = 0; i < kTriedRuns; ++i) execute(handle, plan, workspace, call);
  return timer.stop();
}

// Not while the stream is captured, where waiting is not allowed.
bool may_time(int device) {
  if (plan_choice == PlanChoice::first) return false;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cuda::check(cudaStreamIsCapturing(stream(device), &status), "cudaStreamIsCapturing");
  return status == cudaStreamCaptureStatusNone;
}

// Makes the plan of a configuration and executes it once, as a trial or as the call itself. Throws
// where cuDNN refuses.
Plan try_plan(cudnnHandle_t handle, const Descriptor& config, const Call& call) {
  Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, {handle});
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
  plan.finalize();
  int64_t workspace = 0;
  plan.get(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &workspace);
  if (workspace > kMostWorkspace) throw DnnError("a workspace of {} bytes is too large", workspace);
  execute(handle, plan, workspace, call);
  return {std::move(plan), workspace, {}};
}

// Adds the configurations that cuDNN proposes for the graph and that are exact, best first.
void propose(const Descriptor& graph, cudnnBackendHeurMode_t mode, bool is_f32,
             std::vector<Descriptor>& configs) {
  Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, {mode});
  heuristic.finalize();
  std::vector<Descriptor> proposed;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (int64_t i = 0; i < kMostEngines; ++i) {
    proposed.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    raw.push_back(proposed.back().raw());
  }
  const int64_t count = heuristic.get(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                      kMostEngines, raw.data());
  for (int64_t i = 0; i < count; ++i)
    if (Descriptor& config = proposed[static_cast<size_t>(i)]; is_exact(config, is_f32))
      configs.push_back(std::move(config));
}

// The plan for a call that has none yet; the call is done with it. No plan: cuDNN refuses.
Plan first_call(cudnnHandle_t handle, const Call& call) {
  Plan best;
  std::string why = "no engine";
  // f(), or why cuDNN refuses it; then something else may do.
  const auto attempt = [&](const auto& f) {
    try {
      f();
    } catch (const DnnError& e) {
      why = e.what();
      static_cast<void>(cudaGetLastError());  // what it tried is no error of our launches
    }
  };
  const bool timed = may_time(call.x.device().index);
  double least = 0;
  int tried = 0;
  attempt([&] {
    Operations operations = describe(call);
    Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, {handle});
    graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, operations.raw.size(),
              operations.raw.data());
    best.parts = std::move(operations.parts);
    graph.finalize();
    std::vector<Descriptor> configs;
    for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
      attempt([&] { propose(graph, mode, call.x.dtype() == DType::f32, configs); });
    best.parts.push_back(std::move(graph));
    for (size_t i = 0; i < configs.size() && tried < (timed ? kTriedPlans : 1); ++i)
      attempt([&] {
        Plan plan = try_plan(handle, configs[i], call);
        const double cost = timed ? time(handle, *plan.plan, plan.workspace, call) : 0;
        best.parts.push_back(std::move(configs[i]));
        if (tried++ > 0 && cost >= least) return;
        std::swap(best.plan, plan.plan);
        best.workspace = plan.workspace;
        least = cost;
      });
  });
  // The last trial may have been another plan's.
  if (tried > 1) execute(handle, *best.plan, best.workspace, call);
  if (!best.plan) note_refusal(fmt::format("{}: {}", call.str(), why));
  return best;
}

bool run(const Call& call) {
  if (!dnn().found() || call.y.dtype() == DType::f64 || call.x.numel() == 0) return false;
  const int index = call.x.device().index;
  const DeviceGuard guard(index);
  auto& state = state_of<DnnState>(index);
  const std::lock_guard lock(state.mutex);
  if (!state.asked) {
    state.asked = true;
    // Without a part of itself, or with a driver that is too old, cuDNN is as good as missing.
    if (const cudnnStatus_t status = dnn().cudnnCreate(&state.handle);
        status != CUDNN_STATUS_SUCCESS) {
      state.handle = nullptr;
      note_refusal(fmt::format("cudnnCreate: {}", dnn().cudnnGetErrorString(status)));
    } else {
      check_dnn(dnn().cudnnSetStream(state.handle, stream(index)), "cudnnSetStream");
    }
  }
  if (!state.handle) return false;
  const auto key = call.key();
  auto found = state.plans.find(key);
  if (found == state.plans.end())
    found = state.plans.emplace(key, first_call(state.handle, call)).first;
  else if (found->second.plan)
    execute(state.handle, *found->second.plan, found->second.workspace, call);
  if (!found->second.plan) return false;
  count_call();
  return true;
}

}  // namespace

bool conv2d(const Tensor& x, const Tensor& w, const ConvEpilogue& epilogue, const ConvArgs& args,
            Tensor& y) {
  return run({kForward, x, w, y, args, epilogue});
}
bool conv2d_backward_input(const Tensor& dy, const Tensor& w, const ConvArgs& args, Tensor& dx) {
  return run({kBackwardInput, dx, w, dy, args, {}});
}
bool conv2d_backward_weight(const Tensor& x, const Tensor& dy, const ConvArgs& args, Tensor& dw) {
  // f32 sums of bf16 in channels that are no vectors of 16 bytes: cuDNN 9 takes them and gives
  // wrong numbers (12 to 8 channels, on an H200).
  if (dw.dtype() != x.dtype() && (x.dim(3) % 8 != 0 || dy.dim(3) % 8 != 0)) return false;
  return run({kBackwardWeight, x, dw, dy, args, {}});
}

void set_plan_choice(PlanChoice choice) {
  plan_choice = choice;
}

std::string dnn_library() {
  return dnn().found() ? dnn().describe(static_cast<int64_t>(dnn().cudnnGetVersion()))
                       : dnn().describe_missing();
}

}  // namespace facet::cuda::vendor
