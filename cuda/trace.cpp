#include "cuda/trace.h"

#include <nvtx3/nvToolsExt.h>

namespace facet::cuda {
namespace {

struct Range {
  explicit Range(const char* name) { nvtxRangePushA(name); }
  ~Range() { nvtxRangePop(); }
};

class TracedBackend final : public Backend {
 public:
  explicit TracedBackend(Backend& inner) : inner_(inner) {}

#define BACKEND_METHOD(name, parameters, arguments) \
  void name parameters override {                   \
    const Range range(#name);                       \
    inner_.name arguments;                          \
  }
#include "tensor/backend.def"
#undef BACKEND_METHOD

 private:
  Backend& inner_;
};

}  // namespace

Backend& traced(Backend& inner) {
  static TracedBackend backend(inner);
  return backend;
}

}  // namespace facet::cuda
