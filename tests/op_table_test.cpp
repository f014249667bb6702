// Runs the table of operations, one test a row, and checks that the rows reach everything.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/op_runner.h"

#if defined(FACET_CUDA)
#include "cuda/runtime.h"
#if defined(FACET_CUDA_EMULATED)
#include "cuda/emu/runtime.h"
#endif
#endif

namespace facet::test {
namespace {

class OpTableTest : public testing::TestWithParam<size_t> {};

TEST_P(OpTableTest, Holds) {
  const OpCase& op = op_cases()[GetParam()];
  for (const OpCheck& check : op_checks()) {
    const std::string failure = run_op_check(check, op);
    EXPECT_TRUE(failure.empty()) << op.name << ", " << check.name << ": " << failure;
  }
}

INSTANTIATE_TEST_SUITE_P(Row, OpTableTest, testing::Range<size_t>(0, op_cases().size()),
                         [](const auto& row) { return op_cases()[row.param].name; });

// Notes which methods of the CPU backend are called, and for which line of the .def files.
class RecordingBackend final : public Backend {
 public:
  explicit RecordingBackend(Backend& inner) : inner_(inner) {}

#define BACKEND_METHOD(name, parameters, arguments) \
  void name parameters override {                   \
    method_ = #name;                                \
    note arguments;                                 \
    inner_.name arguments;                          \
  }
#include "tensor/backend.def"
#undef BACKEND_METHOD

  std::set<std::string> seen;

 private:
  template <typename... Rest>
  void note(UnaryOp op, const Rest&...) {
    insert(static_cast<int>(op));
  }
  template <typename... Rest>
  void note(BinaryOp op, const Rest&...) {
    insert(static_cast<int>(op));
  }
  template <typename... Rest>
  void note(ReduceOp op, const Rest&...) {
    insert(static_cast<int>(op));
  }
  template <typename... Any>
  void note(const Any&...) {
    insert(-1);
  }
  void insert(int op) {
    seen.insert(op < 0 ? method_ : fmt::format("{} {}", method_, op));
  }

  Backend& inner_;
  std::string method_;
};

TEST(OpTable, ReachesEveryBackendMethodAndEveryLine) {
  Backend& cpu = backend_for(Device{});
  RecordingBackend recorder(cpu);
  install_backend(DeviceType::cpu, &recorder);
  for (const OpCase& op : op_cases()) {
    try {
      evaluate(op, draw_inputs(op, op.inputs), DType::f32);
    } catch (const std::exception&) {  // the row's own test tells
    }
  }
  install_backend(DeviceType::cpu, &cpu);

  // axis-free methods by name; those that take a line of a .def file, once a line
  const auto expect_lines = [&](const std::string& method, size_t lines) {
    for (size_t i = 0; i < lines; ++i)
      EXPECT_TRUE(recorder.seen.count(fmt::format("{} {}", method, i)))
          << "no row reaches " << method << " of line " << i;
  };
  constexpr size_t kUnaryLines = 0
#define UNARY(name, low, high, reference) +1
#include "tensor/unary.def"
#undef UNARY
      ;
  constexpr size_t kBinaryLines = 0
#define BINARY(name, low, high, reference) +1
#include "tensor/binary.def"
#undef BINARY
      ;
  const std::set<std::string> by_line = {"unary", "unary_backward", "binary", "binary_backward",
                                         "reduce"};
#define BACKEND_METHOD(name, parameters, arguments) \
  EXPECT_TRUE(by_line.count(#name) || recorder.seen.count(#name)) << "no row reaches " #name;
#include "tensor/backend.def"
#undef BACKEND_METHOD
  expect_lines("unary", kUnaryLines);
  expect_lines("unary_backward", kUnaryLines);
  expect_lines("binary", kBinaryLines);
  expect_lines("reduce", static_cast<size_t>(ReduceOp::sum_squares) + 1);
  for (size_t i = 0; i < kBinaryLines; ++i)
    if (static_cast<BinaryOp>(i) != BinaryOp::add) {  // its gradient is dy itself
      EXPECT_TRUE(recorder.seen.count(fmt::format("binary_backward {}", i)))
          << "no row reaches binary_backward of line " << i;
    }
}

#if defined(FACET_CUDA)
// Values that no row draws: a NaN wins a pool, and of equals the first.
TEST(OpTable, DevicesSelectAmongNaNAndEquals) {
  const double special[] = {std::nan(""), 1, -1, 1, -HUGE_VAL, -HUGE_VAL, 0};
  std::vector<double> values;
  for (int i = 0; i < 6 * 7 * 8; ++i) values.push_back(special[i * i / 3 % 31 % 7]);
  const Tensor x = Tensor::from(values, {1, 6, 7, 8}).cast(DType::bf16);
  const std::vector<double> want = ops::max_pool2d(x, {}).where.to_vector<double>();
  const cuda::KernelChoice before = cuda::kernel_choice();
  for (const auto choice : {cuda::KernelChoice::tuned, cuda::KernelChoice::naive}) {
    cuda::set_kernel_choice(choice);
    EXPECT_EQ(ops::max_pool2d(x.to(other_devices().at(0)), {}).where.to_vector<double>(), want);
  }
  cuda::set_kernel_choice(before);
  const Tensor row =
      Tensor::from<double>({std::nan(""), 1, -HUGE_VAL, 2}, {1, 4}).to(other_devices().at(0));
  EXPECT_EQ(ops::topk(row, 4).indices.to_vector<double>(),
            (std::vector<double>{3, 1, 2, 0}));  // NaNs come last
  // Sorted in parts of 2048, and selected one by one, as the CPU does.
  std::vector<double> long_row(2500, std::nan(""));
  for (size_t i = 0; i < long_row.size(); i += 250) long_row[i] = special[i / 250 % 7];
  const Tensor y = Tensor::from(long_row, {1, 2500});
  for (const int64_t k : {8, 13})
    EXPECT_EQ(ops::topk(y.to(row.device()), k).indices.to_vector<double>(),
              ops::topk(y, k).indices.to_vector<double>());
  EXPECT_EQ(ops::argmax(row).to_vector<double>(), std::vector<double>{3});
  EXPECT_EQ(ops::argmax(Tensor::full({1, 5}, std::nan(""), DType::bf16, row.device()))
                .to_vector<double>(),
            std::vector<double>{0});
}

// What no row of the table can say: element types that only move, and a gradient that autograd
// never asks for.
TEST(OpTable, DevicesMoveEveryElementType) {
  const Device device = other_devices().at(0);
  const std::vector<DType> types = {DType::f32, DType::bf16, DType::f64,
                                    DType::i32, DType::i64,  DType::u8};
  const Tensor numbers = Tensor::from<int64_t>({0, 1, 2, 3, 100, 7}).reshape({3, 2});
  const Tensor index = Tensor::from<int64_t>({2, 0, 2});
  const auto expect_same = [](const Tensor& there, const Tensor& here) {
    EXPECT_EQ(there.to_vector<double>(), here.to_vector<double>());
  };
  for (const DType from : types) {
    SCOPED_TRACE(facet::name(from));
    const Tensor x = numbers.cast(from), y = x.to(device);
    for (const DType to : types) expect_same(y.cast(to), x.cast(to));
    expect_same(Tensor::full({3}, 5.0, from, device), Tensor::full({3}, 5.0, from));
    expect_same(ops::gather_rows(y, index.to(device)), ops::gather_rows(x, index));
    expect_same(ops::permute(y, {1, 0}), ops::permute(x, {1, 0}));
    expect_same(ops::narrow(y, 1, 1, 1), ops::narrow(x, 1, 1, 1));
    if (!is_floating(from)) continue;
    Tensor want = Tensor::zeros({3, 2}, from);
    want.backend().scatter_add_rows(x, index, want);
    const cuda::KernelChoice choice = cuda::kernel_choice();
    for (const cuda::KernelChoice each : {choice, cuda::KernelChoice::naive}) {
      cuda::set_kernel_choice(each);
      Tensor sum = Tensor::zeros({3, 2}, from, device);
      sum.backend().scatter_add_rows(y, index.to(device), sum);
      expect_same(sum, want);
    }
    cuda::set_kernel_choice(choice);
    for (const Tensor& dy : {y, Tensor::full({8}, 2.0, from, device)}) {
      Tensor da = Tensor::empty_like(dy), db = Tensor::empty_like(dy);
      dy.backend().binary_backward(BinaryOp::add, dy, dy, dy, da, db);
      expect_same(da, dy);
      expect_same(db, dy);
    }
  }
  // A long product of bf16 into f32.
  const Tensor a = Tensor::full({2, 600}, 1.5, DType::bf16, device);
  using cuda::KernelChoice;
  const KernelChoice before = cuda::kernel_choice();
  for (const auto choice : {KernelChoice::vendor, KernelChoice::tuned, KernelChoice::naive}) {
    cuda::set_kernel_choice(choice);
    Tensor product = Tensor::empty({2, 2}, DType::f32, device);
    ops::matmul_into(a, a, {.trans_b = true}, product);
    expect_same(product, Tensor::full({2, 2}, 1350.0));
  }
  cuda::set_kernel_choice(before);
}
#endif

#if defined(FACET_CUDA_EMULATED)
// A kernel that is compiled for a type but never run has not been proven. Asked when all tests are
// over; a run with a filter proves nothing.
class EveryKernelRuns : public testing::Environment {
 public:
  void TearDown() override {
    if (GTEST_FLAG_GET(filter) != "*") return;
    const std::vector<std::string> run = emu::kernels_run();
    const std::set<std::string> were_run(run.begin(), run.end());
    for (const std::string& name : emu::known_kernels())
      EXPECT_TRUE(were_run.count(name)) << "no test here runs " << name;
    EXPECT_GT(emu::known_kernels().size(), 100u);
  }
};
const testing::Environment* const kEveryKernelRuns =
    testing::AddGlobalTestEnvironment(new EveryKernelRuns);
#endif

TEST(OpTable, NamesAreUnique) {
  std::set<std::string> names;
  for (const OpCase& op : op_cases()) EXPECT_TRUE(names.insert(op.name).second) << op.name;
}

TEST(OpTable, BenchmarkInputsFitTheirRows) {
  int timed = 0;
  for (const OpCase& op : op_cases()) {
    if (op.bench.empty()) continue;
    ++timed;
    ASSERT_EQ(op.bench.size(), op.inputs.size()) << op.name;
    for (size_t i = 0; i < op.bench.size(); ++i)
      EXPECT_TRUE(op.bench[i].kind == op.inputs[i].kind && op.bench[i].acc == op.inputs[i].acc)
          << op.name;
    int64_t elements = 0;
    for (const Input& input : op.bench) elements += input.shape.numel();
    if (elements > 1 << 18) continue;  // too slow to try here
    VariableList inputs;
    for (const Tensor& t : draw_inputs(op, op.bench))
      inputs.emplace_back(is_floating(t.dtype()) ? t.cast(DType::f32) : t);
    EXPECT_NO_THROW(op.run(inputs)) << op.name;
  }
  EXPECT_GT(timed, 30);
}

// A table that cannot fail tests nothing: each check must notice a row that is wrong in its way.
TEST(OpTable, ChecksNoticeMistakes) {
  const auto failing = [](const OpCase& op, size_t check) {
    return !run_op_check(op_checks()[check], op).empty();
  };
  OpCase good{.name = "double",
              .inputs = {real({33})},
              .run = one_output([](const VariableList& in) { return affine(2.0, in[0]); }),
              .reference = one_tensor([](const TensorList& in) {
                return tabulate({33}, [&](int64_t i) { return 2 * in[0].data<double>()[i]; });
              })};
  for (size_t c = 0; c < op_checks().size(); ++c) EXPECT_FALSE(failing(good, c)) << c;

  OpCase wrong_value = good;
  wrong_value.run = one_output([](const VariableList& in) { return affine(2.0, in[0], 1e-3); });
  EXPECT_TRUE(failing(wrong_value, 0));
  EXPECT_TRUE(failing(wrong_value, 1));

  OpCase rough = good;  // correct but rounded twice more than needed in bf16
  rough.run = one_output([](const VariableList& in) {
    return in[0].dtype() == DType::bf16 ? affine(2.0, in[0], 0.02) : affine(2.0, in[0]);
  });
  EXPECT_TRUE(failing(rough, 2));

  OpCase wrong_gradient = good;
  wrong_gradient.run = one_output([](const VariableList& in) {
    return Variable::result("wrong", ops::affine(2.0, in[0].value(), 0.0), {in[0]},
                            [](const Tensor& dy) -> TensorList { return {dy}; });
  });
  EXPECT_FALSE(failing(wrong_gradient, 0));
  EXPECT_TRUE(failing(wrong_gradient, 3));

  OpCase unwritten = good;
  unwritten.differentiable = false;
  unwritten.run = one_output([](const VariableList& in) {
    Tensor y = ops::affine(2.0, in[0].value(), 0.0), partial = Tensor::empty_like(y);
    partial.narrow(0, 32).copy_(y.narrow(0, 32));
    return Variable(partial);
  });
  EXPECT_TRUE(failing(unwritten, 0));

  OpCase outside = unwritten;
  outside.run = one_output([](const VariableList& in) {
    Tensor y = ops::affine(2.0, in[0].value(), 0.0);
    static_cast<unsigned char*>(y.raw())[y.bytes()] = 0;
    return Variable(y);
  });
  EXPECT_TRUE(failing(outside, 0));

  OpCase random = unwritten;
  random.run = one_output([calls = std::make_shared<double>(0.0)](const VariableList& in) {
    return Variable(ops::affine(2.0, in[0].value(), 1e-12 * ++*calls));
  });
  random.dtypes = {DType::f64};
  EXPECT_TRUE(failing(random, 4));

  OpCase accepting = good;
  accepting.errors = {{"affine", [] {}}};
  EXPECT_TRUE(failing(accepting, 5));
  accepting.errors = {{"other", [] { affine(1.0, Variable(Tensor::zeros({2}, DType::i64))); }}};
  EXPECT_TRUE(failing(accepting, 5));
}

}  // namespace
}  // namespace facet::test
