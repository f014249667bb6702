// The abstract backend: one pure virtual method a line of backend.def.
#pragma once

#include <cstdint>

#include "tensor/augment.h"
#include "tensor/random.h"
#include "tensor/tensor.h"

namespace facet {

enum class UnaryOp : uint8_t {
#define UNARY(name, low, high, reference) name,
#include "tensor/unary.def"
#undef UNARY
};

enum class BinaryOp : uint8_t {
#define BINARY(name, low, high, reference) name,
#include "tensor/binary.def"
#undef BINARY
};

enum class ReduceOp : uint8_t { sum, mean, max, min, sum_squares };

struct MatmulArgs {
  bool trans_a = false;  // a is (K, M) instead of (M, K)
  bool trans_b = false;  // b is (N, K) instead of (K, N)
  double alpha = 1.0;
  double beta = 0.0;
};

struct ConvArgs {
  int stride = 1;
  int padding = 0;  // on each of the four sides
  int groups = 1;
  bool operator==(const ConvArgs&) const = default;
};

// What becomes of a convolution's sums before they are written: relu?(sums + bias + residual).
struct ConvEpilogue {
  Tensor bias;      // (Cout), of x's type, or none
  Tensor residual;  // as y, or none
  bool relu = false;
  bool is_empty() const { return !bias.defined() && !residual.defined() && !relu; }
};

// Rows of `width` elements, `pitch` apart, the first beginning at `first`: in a source and a
// destination.
struct BlockArgs {
  int64_t rows = 0, width = 0;
  int64_t from_first = 0, from_pitch = 0;
  int64_t to_first = 0, to_pitch = 0;
};

struct PoolArgs {
  int kernel = 3;
  int stride = 2;
  int padding = 1;
};

struct BatchNormArgs {
  double eps = 1e-5;
  double momentum = 0.1;         // running = (1 - momentum) * running + momentum * batch
  bool relu = false;             // fuse the ReLU that follows
  bool update_running = true;    // training forward only
  bool batch_statistics = true;  // backward only: mean and rstd came from this batch
  // Training: the batch is cut into this many runs of samples, each with statistics of its own, as
  // if each were on a device of its own; the running ones get the mean. Done above the backends.
  int splits = 1;
};

// torch.optim.SGD: d = grad + weight_decay * w; buffer = first ? d : momentum * buffer + d;
// w -= lr * (nesterov ? d + momentum * buffer : buffer).
struct SgdArgs {
  double lr = 0.0, momentum = 0.0, weight_decay = 0.0;
  bool nesterov = false;
  bool first = false;  // the buffer holds nothing yet
};

// Loshchilov & Hutter 2019 (decoupled), or torch.optim.Adam's L2 form. step counts from 1.
struct AdamArgs {
  double lr = 0.0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.0;
  bool decoupled = true;
  int64_t step = 1;
};

// Layer-wise adaptive rate scaling (You et al. 2017) in the forms that official code uses.
enum class LarsForm : uint8_t {
  simclr,   // classic momentum: v = m v + lr trust d; w -= v (learning rate inside the buffer)
  moco_v3,  // v = m v + trust d; w -= lr v (MAE's probe and DINO, too)
  larc      // apex LARC, clip off: trust = eta |w| / (|g| + wd |w| + eps), then SGD without decay
};
struct LarsArgs {
  double lr = 0.0, momentum = 0.9, weight_decay = 0.0, trust = 1e-3, eps = 1e-8;
  LarsForm form = LarsForm::simclr;
  bool adapt = true;  // false (biases, norms): trust ratio 1; decay is the caller's weight_decay
  bool first = false;
};

class Backend {
 public:
  virtual ~Backend() = default;

#define BACKEND_METHOD(name, parameters, arguments) virtual void name parameters = 0;
#include "tensor/backend.def"
#undef BACKEND_METHOD
};

// The backend that runs work for tensors on this device; throws where there is none.
Backend& backend_for(Device device);

// Replaces the backend of a device type (CUDA at start-up, the profiler around another one) and
// returns the one before. Not while other threads compute.
Backend* install_backend(DeviceType type, Backend* backend);

}  // namespace facet
