// A fault of emulated device code.
#pragma once

#include <stdexcept>

namespace facet::emu {

class KernelFault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace facet::emu
