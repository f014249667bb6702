// Counter-based random numbers: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011). A number depends on (seed, stream, index) and on nothing else, so it is
// the same on the CPU, on the GPU and in the emulator, for any number of workers, and after a
// resume.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>

#include "tensor/dtype.h"

namespace facet {

// seed: the run's; stream: what the numbers are for (see stream ids below), mixed with step,
// rank or sample index as needed through RandomKey::child.
struct RandomKey {
  uint64_t seed = 0;
  uint64_t stream = 0;

  // A key for a sub-purpose: splitmix64 of the parent's stream and the given number.
  FACET_HD RandomKey child(uint64_t n) const {
    uint64_t z = stream + 0x9E3779B97F4A7C15ull * (n + 1);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return {seed, z ^ (z >> 31)};
  }
  bool operator==(const RandomKey&) const = default;
};

// Top-level purposes; each draws from RandomKey{seed, 0}.child(purpose).
enum class RandomPurpose : uint64_t {
  init = 1,
  order,
  augment,
  dropout,
  queue,
  synthetic,
  split,
  bootstrap,
  mix,
  mask,
  drop_path
};
inline RandomKey random_key(uint64_t seed, RandomPurpose purpose) {
  return RandomKey{seed, 0}.child(static_cast<uint64_t>(purpose));
}

struct Philox4 {
  uint32_t v[4];
};

// The four 32-bit numbers of block `counter` under `key`.
FACET_HD inline Philox4 philox(const RandomKey& key, uint64_t counter) {
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = static_cast<uint32_t>(key.stream), c3 = static_cast<uint32_t>(key.stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// [0, 1) with 24 random bits, exact in f32.
FACET_HD inline float uniform_from_bits(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1.0p-24f;
}

// Two standard normal numbers from two 32-bit ones (Box-Muller, in double so that every backend
// rounds the same value).
FACET_HD inline void normal_from_bits(uint32_t a, uint32_t b, double out[2]) {
  const double u = (static_cast<double>(a) + 1.0) * 0x1.0p-32;  // (0, 1]
  const double angle = 6.283185307179586476925 * (static_cast<double>(b) * 0x1.0p-32);
  const double radius = std::sqrt(-2.0 * std::log(u));
  out[0] = radius * std::cos(angle);
  out[1] = radius * std::sin(angle);
}

// Standard normal number i of a key: element i of ops::random_normal.
FACET_HD inline double normal_at(const RandomKey& key, int64_t i) {
  const Philox4 bits = philox(key, static_cast<uint64_t>(i) / 4);
  const int half = static_cast<int>(i % 4) / 2 * 2;
  double pair[2];
  normal_from_bits(bits.v[half], bits.v[half + 1], pair);
  return pair[i % 2];
}

// A small sequential generator over one key, for host code (augmentation, sampling, splits).
class RandomSequence {
 public:
  explicit RandomSequence(const RandomKey& key) : key_(key) {}

  uint32_t next_u32() {
    if (used_ == 4) {
      block_ = philox(key_, counter_++);
      used_ = 0;
    }
    return block_.v[used_++];
  }
  uint64_t next_u64() {
    const uint64_t high = next_u32();
    return (high << 32) | next_u32();
  }
  // [0, 1) with 53 random bits.
  double uniform() { return static_cast<double>(next_u64() >> 11) * 0x1.0p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  bool bernoulli(double probability) { return uniform() < probability; }
  // 0 ... n-1 without bias (Lemire 2019).
  uint64_t below(uint64_t n) {
    while (true) {
      const unsigned __int128 m = static_cast<unsigned __int128>(next_u64()) * n;
      if (static_cast<uint64_t>(m) >= n || static_cast<uint64_t>(m) >= (-n) % n)
        return static_cast<uint64_t>(m >> 64);
    }
  }
  double normal() {
    const uint32_t a = next_u32();
    double pair[2];
    normal_from_bits(a, next_u32(), pair);
    return pair[0];
  }
  // Fisher-Yates.
  template <typename Container>
  void shuffle(Container& values) {
    for (uint64_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(i)]);
  }

 private:
  RandomKey key_;
  uint64_t counter_ = 0;
  Philox4 block_{};
  int used_ = 4;
};

}  // namespace facet
