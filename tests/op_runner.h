// What is derived from a row of the table of operations. Every check returns what is wrong in one
// line, or nothing.
#pragma once

#include <string>
#include <vector>

#include "tests/op_case.h"

namespace facet::test {

struct OpCheck {
  const char* name;
  std::string (*run)(const OpCase& op);
};

// The checks, to be run one after the other for each row. Fresh memory holds NaN and lies between
// guards while they run.
const std::vector<OpCheck>& op_checks();
// Runs one of them; adds what the guards and unexpected exceptions say.
std::string run_op_check(const OpCheck& check, const OpCase& op);

// Devices other than the CPU that this build can use now; each is compared with the CPU.
std::vector<Device> other_devices();

struct OpResult {
  TensorList outputs;
  TensorList gradients;  // of the inputs that want one
};
// Forward and, for a differentiable row, backward from fixed output gradients.
OpResult evaluate(const OpCase& op, const TensorList& inputs, DType dtype, Device device = {});

}  // namespace facet::test
