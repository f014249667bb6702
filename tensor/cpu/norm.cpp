// Batch normalisation of rows x C (Ioffe & Szegedy 2015), fused with the residual add and the ReLU
// that follow. Bound by memory: forward reads x twice and writes y, backward reads x and dy twice
// and writes dx; the ReLU is remembered as one bit an element.

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/lanes.h"
#include "tensor/parallel.h"

namespace facet {
namespace cpu {
namespace {

constexpr int64_t kRowStep = 8;              // rows summed at once; keeps mask bytes whole
constexpr int64_t kChunkElements = 1 << 16;  // what one partial sum covers, at least
constexpr int64_t kMaxChunks = 64;
constexpr int64_t kFlushRows = 512;  // rows summed in acc precision before going into doubles
constexpr size_t kStreamBytes = size_t{24} << 20;
constexpr int64_t kShiftRows = 16;  // rows whose mean stands for the mean in shifted sums

// The rows cut into chunks that depend on the shape alone, so that sums do not change with the
// number of threads.
struct Chunks {
  Chunks(int64_t rows_, int64_t cols) : rows(rows_) {
    const int64_t least =
        std::max((rows + kMaxChunks - 1) / kMaxChunks, kChunkElements / std::max<int64_t>(cols, 1));
    length = std::max((least + kRowStep - 1) / kRowStep, int64_t{1}) * kRowStep;
    count = (rows + length - 1) / length;
  }
  // f(chunk, first row, last row)
  template <typename F>
  void for_each(F&& f) const {
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i, i * length, std::min((i + 1) * length, rows));
    });
  }
  // f(first row, last row), each thread from its last chunk to its first: a second pass finds in
  // the caches what the first one read last.
  template <typename F>
  void for_each_reversed(F&& f) const {
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = end - 1; i >= begin; --i) f(i * length, std::min((i + 1) * length, rows));
    });
  }
  int64_t rows, length, count;
};

// Writes past the caches where the tensor would not stay in them, which saves reading the lines.
template <typename V, typename T>
class Writer {
 public:
  explicit Writer(Tensor& to)
      : data_(to.defined() ? to.data<T>() : nullptr),
        stream_(to.defined() && to.bytes() >= kStreamBytes &&
                reinterpret_cast<uintptr_t>(data_) % 64 == 0) {}
  explicit operator bool() const { return data_; }
  void operator()(int64_t at, V v) const {
    if (stream_)
      v.stream(data_ + at);
    else
      v.store(data_ + at);
  }

 private:
  T* data_;
  bool stream_;
};

// Two sums a channel and chunk, in doubles.
struct Sums {
  Sums(const Chunks& chunks, int64_t cols_)
      : cols(cols_), values(static_cast<size_t>(2 * chunks.count * cols)) {}
  double* first(int64_t chunk) { return values.data() + 2 * chunk * cols; }
  double* second(int64_t chunk) { return first(chunk) + cols; }
  // All chunks into the first one, in order.
  void combine() {
    const auto chunks = static_cast<int64_t>(values.size()) / (2 * cols);
    parallel_for(2 * cols, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t i = 1; i < chunks; ++i)
        for (int64_t c = begin; c < end; ++c) values[c] += values[2 * i * cols + c];
    });
  }
  int64_t cols;
  std::vector<double> values;
};

// Adds `rows` rows in acc precision: term(row offset, c) gives a pair of Lanes.
template <typename A, int W, typename Term>
void sum_rows(int64_t begin, int64_t end, int64_t cols, double* first, double* second,
              const Term& term) {
  using V = Lanes<A, W>;
  std::vector<A> buffer(static_cast<size_t>(2 * cols));
  A* const s = buffer.data();
  A* const q = s + cols;
  std::fill_n(first, cols, 0.0);
  std::fill_n(second, cols, 0.0);
  for (int64_t flush = begin; flush < end; flush += kFlushRows) {
    const int64_t stop = std::min(flush + kFlushRows, end);
    std::fill(buffer.begin(), buffer.end(), A(0));
    int64_t r = flush;
    for (; r + kRowStep <= stop; r += kRowStep)
      for (int64_t c = 0; c < cols; c += W) {
        V a = V::load(s + c), b = V::load(q + c);
        for (int64_t i = 0; i < kRowStep; ++i) term(r + i, c, a, b);
        a.store(s + c);
        b.store(q + c);
      }
    for (; r < stop; ++r)
      for (int64_t c = 0; c < cols; c += W) {
        V a = V::load(s + c), b = V::load(q + c);
        term(r, c, a, b);
        a.store(s + c);
        b.store(q + c);
      }
    for (int64_t c = 0; c < cols; ++c) first[c] += s[c];
    for (int64_t c = 0; c < cols; ++c) second[c] += q[c];
  }
}

// Mean of a few rows spread over x: near enough to the mean that sums of squared distances from it
// do not cancel.
template <typename T>
std::vector<acc_t<T>> shift_of(const T* x, int64_t rows, int64_t cols) {
  const int64_t count = std::min(rows, kShiftRows);
  std::vector<acc_t<T>> shift(static_cast<size_t>(cols));
  for (int64_t i = 0; i < count; ++i) {
    const T* const row = x + rows * i / count * cols;
    for (int64_t c = 0; c < cols; ++c) shift[c] += static_cast<acc_t<T>>(row[c]);
  }
  for (auto& value : shift) value /= static_cast<acc_t<T>>(count);
  return shift;
}

// y = relu?((x - mean) * scale + beta + residual?)
template <typename T, int W>
void apply(const Chunks& chunks, const Tensor& x_, const Tensor& residual_, const Tensor& mean_,
           const std::vector<acc_t<T>>& scale, const Tensor& beta_, Tensor& y, Tensor& mask_) {
  using A = acc_t<T>;
  using V = Lanes<A, W>;
  const int64_t cols = x_.cols();
  const T* const x = x_.data<T>();
  const T* const residual = residual_.defined() ? residual_.data<T>() : nullptr;
  const A* const mean = mean_.data<A>();
  const A* const beta = beta_.data<A>();
  uint8_t* const mask = mask_.defined() ? mask_.data<uint8_t>() : nullptr;
  const Writer<V, T> write(y);
  chunks.for_each_reversed([&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = 0; c < cols; c += W) {
        const int64_t at = r * cols + c;
        V v = (V::load(x + at) - V::load(mean + c)) * V::load(scale.data() + c) + V::load(beta + c);
        if (residual) v = v + V::load(residual + at);
        if (mask) {
          const uint32_t bits = v.positive();
          write_bits<W>(mask, at, bits);
          v = v.keep(bits);
        }
        write(at, v);
      }
    flush_streams();
  });
}

template <typename T, int W>
void train(const Tensor& x, const Tensor& residual, const Tensor& gamma, const Tensor& beta,
           const BatchNormArgs& args, Tensor& y, Tensor& mean, Tensor& rstd, Tensor& running_mean,
           Tensor& running_var, Tensor& mask) {
  using A = acc_t<T>;
  using V = Lanes<A, W>;
  const int64_t rows = x.rows(), cols = x.cols();
  const T* const from = x.data<T>();
  const Chunks chunks(rows, cols);
  const std::vector<A> shift = shift_of(from, rows, cols);
  Sums sums(chunks, cols);
  chunks.for_each([&](int64_t i, int64_t begin, int64_t end) {
    sum_rows<A, W>(begin, end, cols, sums.first(i), sums.second(i),
                   [&](int64_t r, int64_t c, V& sum, V& squares) {
                     const V d = V::load(from + r * cols + c) - V::load(shift.data() + c);
                     sum = sum + d;
                     squares = squares + d * d;
                   });
  });
  sums.combine();

  std::vector<A> scale(static_cast<size_t>(cols));
  const auto n = static_cast<double>(rows);
  for (int64_t c = 0; c < cols; ++c) {
    const double distance = sums.first(0)[c] / n;
    const double m2 = std::max(sums.second(0)[c] - distance * sums.first(0)[c], 0.0);
    const double mu = static_cast<double>(shift[c]) + distance;
    const double r = 1.0 / std::sqrt(m2 / n + args.eps);
    mean.data<A>()[c] = static_cast<A>(mu);
    rstd.data<A>()[c] = static_cast<A>(r);
    scale[c] = static_cast<A>(gamma.data<A>()[c] * r);
    if (!args.update_running) continue;
    const auto blend = [&](A& running, double value) {
      running = static_cast<A>((1.0 - args.momentum) * running + args.momentum * value);
    };
    blend(running_mean.data<A>()[c], mu);
    blend(running_var.data<A>()[c], m2 / std::max(n - 1.0, 1.0));
  }
  apply<T, W>(chunks, x, residual, mean, scale, beta, y, mask);
}

template <typename T, int W>
void eval(const Tensor& x, const Tensor& residual, const Tensor& gamma, const Tensor& beta,
          const Tensor& mean, const Tensor& var, const BatchNormArgs& args, Tensor& y,
          Tensor& mask) {
  using A = acc_t<T>;
  std::vector<A> scale(static_cast<size_t>(x.cols()));
  for (int64_t c = 0; c < x.cols(); ++c)
    scale[c] = static_cast<A>(gamma.data<A>()[c] /
                              std::sqrt(static_cast<double>(var.data<A>()[c]) + args.eps));
  apply<T, W>(Chunks(x.rows(), x.cols()), x, residual, mean, scale, beta, y, mask);
}

// With g = dy where the ReLU let through: dbeta = sum g, dgamma = sum g * xhat, and
// dx = gamma * rstd * (g - dbeta / n - xhat * dgamma / n), where the last two terms come from the
// batch's own statistics.
template <typename T, int W>
void backward(const Tensor& x, const Tensor& dy, const Tensor& gamma, const Tensor& mean,
              const Tensor& rstd, const Tensor& mask, const BatchNormArgs& args, Tensor& dx,
              Tensor& dresidual, Tensor& dgamma, Tensor& dbeta) {
  using A = acc_t<T>;
  using V = Lanes<A, W>;
  const int64_t rows = x.rows(), cols = x.cols();
  const T* const x_data = x.data<T>();
  const T* const dy_data = dy.data<T>();
  const A* const mu = mean.data<A>();
  const uint8_t* const bits = mask.defined() ? mask.data<uint8_t>() : nullptr;
  const auto masked = [&](int64_t at) {
    const V g = V::load(dy_data + at);
    return bits ? g.keep(read_bits<W>(bits, at)) : g;
  };
  const Chunks chunks(rows, cols);
  Sums sums(chunks, cols);
  chunks.for_each([&](int64_t i, int64_t begin, int64_t end) {
    sum_rows<A, W>(begin, end, cols, sums.first(i), sums.second(i),
                   [&](int64_t r, int64_t c, V& sum, V& product) {
                     const V g = masked(r * cols + c);
                     sum = sum + g;
                     product = product + g * (V::load(x_data + r * cols + c) - V::load(mu + c));
                   });
  });
  sums.combine();

  // dx = a * g - (x - mean) * slope - offset
  std::vector<A> factors(static_cast<size_t>(3 * cols));
  A* const a = factors.data();
  A* const slope = a + cols;
  A* const offset = slope + cols;
  const double inverse = args.batch_statistics ? 1.0 / static_cast<double>(rows) : 0.0;
  for (int64_t c = 0; c < cols; ++c) {
    const double r = rstd.data<A>()[c], scale = gamma.data<A>()[c] * r;
    const double gradient = r * sums.second(0)[c];
    dbeta.data<A>()[c] = static_cast<A>(sums.first(0)[c]);
    dgamma.data<A>()[c] = static_cast<A>(gradient);
    a[c] = static_cast<A>(scale);
    slope[c] = static_cast<A>(scale * r * gradient * inverse);
    offset[c] = static_cast<A>(scale * sums.first(0)[c] * inverse);
  }
  const Writer<V, T> write(dx), write_residual(dresidual);
  chunks.for_each_reversed([&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = 0; c < cols; c += W) {
        const int64_t at = r * cols + c;
        const V g = masked(at);
        if (write_residual) write_residual(at, g);
        const V d = V::load(x_data + at) - V::load(mu + c);
        write(at, V::load(a + c) * g - d * V::load(slope + c) - V::load(offset + c));
      }
    flush_streams();
  });
}

// Calls f(element, std::integral_constant lanes): 16 lanes where the rows are whole ones, else 1.
template <typename F>
void dispatch(const Tensor& x, const char* op, F&& f) {
  dispatch_floating(x.dtype(), op, [&](auto tag) {
    if constexpr (!std::is_same_v<decltype(tag), double>)
      if (x.cols() % 16 == 0) return f(tag, std::integral_constant<int, 16>{});
    f(tag, std::integral_constant<int, 1>{});
  });
}

}  // namespace
}  // namespace cpu

void CpuBackend::batch_norm_train(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                                  const Tensor& beta, const BatchNormArgs& args, Tensor& y,
                                  Tensor& mean, Tensor& rstd, Tensor& running_mean,
                                  Tensor& running_var, Tensor& mask) {
  cpu::dispatch(x, "batch_norm_train", [&](auto tag, auto lanes) {
    cpu::train<decltype(tag), lanes()>(x, residual, gamma, beta, args, y, mean, rstd, running_mean,
                                       running_var, mask);
  });
}

void CpuBackend::batch_norm_eval(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                                 const Tensor& beta, const Tensor& mean, const Tensor& var,
                                 const BatchNormArgs& args, Tensor& y, Tensor& mask) {
  cpu::dispatch(x, "batch_norm_eval", [&](auto tag, auto lanes) {
    cpu::eval<decltype(tag), lanes()>(x, residual, gamma, beta, mean, var, args, y, mask);
  });
}

void CpuBackend::batch_norm_backward(const Tensor& x, const Tensor& dy, const Tensor& gamma,
                                     const Tensor& mean, const Tensor& rstd, const Tensor& mask,
                                     const BatchNormArgs& args, Tensor& dx, Tensor& dresidual,
                                     Tensor& dgamma, Tensor& dbeta) {
  cpu::dispatch(x, "batch_norm_backward", [&](auto tag, auto lanes) {
    cpu::backward<decltype(tag), lanes()>(x, dy, gamma, mean, rstd, mask, args, dx, dresidual,
                                          dgamma, dbeta);
  });
}

}  // namespace facet
