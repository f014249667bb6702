#include <algorithm>

#include "tensor/hash.h"
#include "tests/op_case.h"

namespace facet::test {

RandomKey key_of(const std::string& name) {
  return {fnv1a(name), 0};
}

TensorList draw_inputs(const OpCase& op, const std::vector<Input>& inputs) {
  TensorList drawn;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Input& input = inputs[i];
    RandomSequence random(key_of(op.name).child(i));
    const auto n = static_cast<size_t>(input.shape.numel());
    if (input.kind == Input::Kind::integer) {
      std::vector<int64_t> values(n);
      for (int64_t& v : values)
        v = static_cast<int64_t>(input.low) +
            static_cast<int64_t>(random.below(static_cast<uint64_t>(input.high - input.low)));
      drawn.push_back(Tensor::from(values, input.shape));
      continue;
    }
    std::vector<double> values(n);
    for (double& v : values)
      v = static_cast<double>(static_cast<float>(random.uniform(input.low, input.high)));
    if (input.kind == Input::Kind::probability) {
      const auto cols = static_cast<size_t>(input.shape.cols());
      for (size_t row = 0; row < n; row += cols) {
        double sum = 0;
        for (size_t c = 0; c < cols; ++c) sum += values[row + c];
        for (size_t c = 0; c < cols; ++c)
          values[row + c] = static_cast<double>(static_cast<float>(values[row + c] / sum));
      }
    }
    drawn.push_back(Tensor::from(values, input.shape));
  }
  return drawn;
}

VariableList make_variables(const OpCase& op, const TensorList& inputs, DType dtype,
                            Device device) {
  VariableList variables;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Input& input = op.inputs[i];
    const bool is_real = input.kind != Input::Kind::integer;
    Tensor t = inputs[i];
    // Always a copy, so that a row that writes into its inputs is noticed.
    t = is_real ? t.cast(input.acc ? acc_dtype(dtype) : dtype).to(device) : t.to(device);
    if (t.shares_storage_with(inputs[i])) t = t.clone();
    variables.emplace_back(t, is_real && op.differentiable && input.wants_grad);
  }
  return variables;
}

void set_bench(OpTable& table, const std::string& name, std::vector<Input> inputs) {
  const auto row =
      std::find_if(table.begin(), table.end(), [&](const OpCase& op) { return op.name == name; });
  FACET_CHECK(row != table.end(), "set_bench", "no row is called {}", name);
  row->bench = std::move(inputs);
}

const OpTable& op_cases() {
  static const OpTable table = [] {
    OpTable all;
    add_elementwise_cases(all);
    add_reduce_cases(all);
    add_linear_cases(all);
    add_conv_cases(all);
    add_norm_cases(all);
    add_attention_cases(all);
    add_loss_cases(all);
    add_shape_cases(all);
    add_optim_cases(all);
    add_image_cases(all);
    return all;
  }();
  return table;
}

}  // namespace facet::test
