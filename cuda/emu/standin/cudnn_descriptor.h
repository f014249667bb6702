// The descriptors of cuDNN's stand-in, and which attributes they have.
#pragma once

#include <cudnn.h>

#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

namespace facet::emu {

enum class Engine : int64_t { nondeterministic, tensor_core, planless, good, without_workspace };

struct Attribute {
  cudnnBackendDescriptorType_t descriptor;
  cudnnBackendAttributeName_t name;
  cudnnBackendAttributeType_t type;
  int64_t least, most;  // elements
};
using D = cudnnBackendDescriptorType_t;
constexpr D kTensor = CUDNN_BACKEND_TENSOR_DESCRIPTOR,
            kWindow = CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR,
            kForward = CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
            kData = CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
            kFilter = CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
            kPointwise = CUDNN_BACKEND_POINTWISE_DESCRIPTOR,
            kStep = CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR,
            kGraph = CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR,
            kHeuristic = CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR,
            kConfig = CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, kEngine = CUDNN_BACKEND_ENGINE_DESCRIPTOR,
            kPlan = CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR,
            kPack = CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR;
constexpr auto kChild = CUDNN_TYPE_BACKEND_DESCRIPTOR;

// What may be set, and, unless `least` is 0, must be before a descriptor is finalized.
constexpr Attribute kAttributes[] = {
    {kTensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, 1},
    {kTensor, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1},
    {kTensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, 1},
    {kTensor, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, 4},
    {kTensor, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, 4},
    {kTensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 0, 1},
    {kWindow, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, 1},
    {kWindow, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, 1},
    {kWindow, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, 1},
    {kWindow, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, 2},
    {kWindow, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, 2},
    {kWindow, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, 2},
    {kWindow, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, 2},
#define CONVOLUTION(descriptor, names, x, w, y)                                     \
  {descriptor, CUDNN_ATTR_OPERATION_##names##_CONV_DESC, kChild, 1, 1},             \
      {descriptor, CUDNN_ATTR_OPERATION_##names##_##x, kChild, 1, 1},               \
      {descriptor, CUDNN_ATTR_OPERATION_##names##_##w, kChild, 1, 1},               \
      {descriptor, CUDNN_ATTR_OPERATION_##names##_##y, kChild, 1, 1},               \
      {descriptor, CUDNN_ATTR_OPERATION_##names##_ALPHA, CUDNN_TYPE_FLOAT, 1, 1}, { \
    descriptor, CUDNN_ATTR_OPERATION_##names##_BETA, CUDNN_TYPE_FLOAT, 1, 1         \
  }
    CONVOLUTION(kForward, CONVOLUTION_FORWARD, X, W, Y),
    CONVOLUTION(kData, CONVOLUTION_BWD_DATA, DX, W, DY),
    CONVOLUTION(kFilter, CONVOLUTION_BWD_FILTER, X, DW, DY),
#undef CONVOLUTION
    {kPointwise, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, 1},
    {kPointwise, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, 1},
    {kStep, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kChild, 1, 1},
    {kStep, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, kChild, 1, 1},
    {kStep, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, kChild, 0, 1},
    {kStep, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, kChild, 1, 1},
    {kGraph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, 1},
    {kGraph, CUDNN_ATTR_OPERATIONGRAPH_OPS, kChild, 1, 4},
    {kHeuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, kChild, 1, 1},
    {kHeuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, 1},
    {kPlan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, 1},
    {kPlan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, kChild, 1, 1},
    {kPack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, 1, 64},
    {kPack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, 1, 64},
    {kPack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, 1},
};

inline size_t element_bytes(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR: return 8;
    case CUDNN_TYPE_BOOLEAN: return 1;
    default: return 4;
  }
}

struct Descriptor {
  explicit Descriptor(cudnnBackendDescriptorType_t type_) : type(type_) {}
  cudnnBackendDescriptorType_t type;
  bool finalized = false;
  std::map<int, std::vector<std::byte>> values;
  std::map<int, std::vector<std::shared_ptr<const Descriptor>>> children;
  std::shared_ptr<const Descriptor> graph;  // of an engine and its configuration
  Engine engine = Engine::good;

  template <typename Value>
  Value value(cudnnBackendAttributeName_t name, size_t at = 0) const {
    Value result;
    std::memcpy(&result, values.at(name).data() + at * sizeof result, sizeof result);
    return result;
  }
  const Descriptor& child(cudnnBackendAttributeName_t name, size_t at = 0) const {
    return *children.at(name).at(at);
  }
  bool is_virtual() const {
    return values.contains(CUDNN_ATTR_TENSOR_IS_VIRTUAL) &&
           value<bool>(CUDNN_ATTR_TENSOR_IS_VIRTUAL);
  }
};
// What a cudnnBackendDescriptor_t points to.
using Held = std::shared_ptr<Descriptor>;

}  // namespace facet::emu
