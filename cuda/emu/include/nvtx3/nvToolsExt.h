// NVTX ranges on a machine without CUDA: counted, so that tests see them.
#pragma once

#include <string>
#include <vector>

namespace facet::emu {
// Names of the ranges that were pushed by this process, and how many are open.
struct Ranges {
  std::vector<std::string> pushed;
  int open = 0;
};
inline Ranges& ranges() {
  static Ranges all;
  return all;
}
}  // namespace facet::emu

inline int nvtxRangePushA(const char* name) {
  facet::emu::ranges().pushed.emplace_back(name);
  return facet::emu::ranges().open++;
}
inline int nvtxRangePop() {
  return --facet::emu::ranges().open;
}
