// Images: views of pictures, mixing and erasing. Rows without gradients.

#include "tensor/image.h"
#include "tests/op_case.h"

namespace facet::test {
namespace {

using Kind = ImageOpKind;

ViewPlan plan_of(int height, int width, const Rectangle& window, int size, Filter filter,
                 std::initializer_list<ImageOp> ops) {
  ViewPlan plan = ViewPlan::whole(height, width);
  plan.window = window;
  plan.resized_height = plan.resized_width = size;
  plan.view = {0, 0, size, size};
  plan.filter = filter;
  for (const ImageOp& op : ops) plan.ops[plan.count++] = op;
  return plan;
}

// The first of `in` holds pixels as integers, the second gives the type and the device. The
// reference runs the plans picture by picture (the CPU's operations have golden values of their
// own) and scales in double.
void add_augment(OpTable& table, const std::string& name, std::vector<ViewPlan> plans) {
  int64_t bytes = 0;
  for (ViewPlan& plan : plans) {
    plan.offset = bytes;
    bytes += int64_t{plan.height} * plan.width * 3;
  }
  const ChannelScale scale{{.017f, .018f, .019f}, {-2.1f, -2.f, -1.8f}};
  table.push_back(
      {.name = "augment_" + name,
       .inputs = {integers(bytes, 0, 256), real({1})},
       .run = [plans, scale](const VariableList& in) -> VariableList {
         const Tensor pixels = in[0].value().cast(DType::u8);
         return {Variable(ops::augment(pixels, plans, scale, in[1].dtype())),
                 Variable(ops::augment(pixels, plans, scale, DType::u8).cast(DType::i64))};
       },
       .reference = [plans, scale](const TensorList& in) -> TensorList {
         const std::vector<uint8_t> pixels = in[0].to_vector<uint8_t>();
         std::vector<double> scaled;
         std::vector<int64_t> plain;
         for (const ViewPlan& plan : plans)
           for (const uint8_t v : make_view(plan, pixels.data() + plan.offset).pixels) {
             const size_t c = plain.size() % 3;
             plain.push_back(v);
             scaled.push_back(v * static_cast<double>(scale.scale[c]) +
                              static_cast<double>(scale.shift[c]));
           }
         const Rectangle& view = plans[0].view;
         const Shape shape{static_cast<int64_t>(plans.size()), view.height, view.width, 3};
         return {Tensor::from(scaled, shape), Tensor::from(plain, shape)};
       },
       .differentiable = false});
}

void add_augment_errors(OpTable& table) {
  const Tensor pixels = Tensor::zeros({5 * 4 * 3}, DType::u8);
  const auto failing = [pixels](auto change) {
    return ErrorCase{"augment", [pixels, change] {
                       ViewPlan plan = ViewPlan::whole(5, 4);
                       change(plan);
                       const std::vector<ViewPlan> plans = {ViewPlan::whole(5, 4), plan};
                       ops::augment(pixels, plans, {});
                     }};
  };
  table.back().errors = {
      failing([](ViewPlan& p) { p.offset = 1; }),
      failing([](ViewPlan& p) { p.height = 6; }),
      failing([](ViewPlan& p) { p.window.left = 1; }),
      failing([](ViewPlan& p) { p.window.height = 0; }),
      failing([](ViewPlan& p) { p.resized_width = 3; }),
      failing([](ViewPlan& p) { p.resized_width = p.view.width = 3; }),
      failing([](ViewPlan& p) { p.count = 13; }),
      failing([](ViewPlan& p) { p.ops[p.count++].box[3] = 5; }),
      FAILS("augment", ops::augment(pixels, {}, {})),
      FAILS("augment", ops::augment(pixels, std::vector{ViewPlan::whole(5, 4)}, {}, DType::i64)),
      FAILS("augment", ops::augment(Tensor::zeros({60}), std::vector{ViewPlan::whole(5, 4)}, {})),
  };
}

void add_augments(OpTable& table) {
  const auto blur = [](float sigma) {
    return ImageOp{.kind = Kind::blur, .value = blur_radius(sigma)};
  };
  add_augment(table, "one_pixel",
              {plan_of(1, 1, {0, 0, 1, 1}, 1, Filter::bilinear, {{.kind = Kind::flip}, blur(1)})});
  // The orders in which a view is cut into launches: two contrasts, two blurs, one after the other.
  add_augment(table, "odd_sizes",
              {plan_of(7, 5, {1, 0, 5, 4}, 33, Filter::bicubic,
                       {{.kind = Kind::flip},
                        {.kind = Kind::contrast, .value = .6f},
                        {.kind = Kind::hue, .value = 40},
                        blur(1.9f),
                        {.kind = Kind::contrast, .value = 1.7f},
                        {.kind = Kind::solarize, .value = 128}}),
               plan_of(33, 31, {0, 0, 33, 31}, 33, Filter::bilinear, {}),
               plan_of(61, 75, {3, 20, 50, 41}, 33, Filter::bilinear,
                       {blur(.3f), blur(3), {.kind = Kind::saturation, .value = 1.4f}}),
               plan_of(1, 9, {0, 2, 1, 7}, 33, Filter::bicubic,
                       {{.kind = Kind::brightness, .value = 1.3f},
                        {.kind = Kind::gray},
                        {.kind = Kind::flip},
                        {.kind = Kind::flip},
                        {.kind = Kind::contrast, .value = 0}})});
  // A picture resized with its aspect, then cut.
  ViewPlan centre = plan_of(40, 31, {0, 0, 40, 31}, 24, Filter::bilinear,
                            {{.kind = Kind::posterize, .value = 3}, {.kind = Kind::invert}});
  centre.resized_height = 33;
  centre.resized_width = 26;
  centre.view = {4, 1, 24, 24};
  ViewPlan added = centre;
  added.ops[0] = {.kind = Kind::solarize_add, .value = 70};
  add_augment(table, "resize_and_cut", {centre, added});
  // Histograms, and pixels from elsewhere; a flip behind them.
  ImageOp box{.kind = Kind::cutout, .fill = {7, 70, 170}};
  for (int i = 0; i < 4; ++i) box.box[i] = static_cast<int16_t>(3 * i + 1);
  add_augment(table, "policies",
              {plan_of(33, 31, {1, 2, 30, 29}, 24, Filter::bilinear,
                       {{.kind = Kind::flip},
                        {.kind = Kind::equalize},
                        {.kind = Kind::rotate, .fill = {124, 116, 104}, .value = 27},
                        box,
                        {.kind = Kind::flip},
                        {.kind = Kind::contrast, .value = .4f}}),
               plan_of(9, 61, {0, 0, 9, 61}, 24, Filter::bicubic,
                       {{.kind = Kind::posterize, .value = 4},
                        {.kind = Kind::autocontrast},
                        {.kind = Kind::sharpness, .value = 1.9f},
                        {.kind = Kind::shear_y, .filter = Filter::bicubic, .value = -.3f}})});
  // Shrunk so much that no strip of one row fits in shared memory.
  add_augment(table, "too_tall",
              {plan_of(40000, 1, {0, 0, 40000, 1}, 1, Filter::bicubic, {}),
               plan_of(9, 3, {0, 0, 9, 3}, 1, Filter::bicubic, {})});
  ViewPlan wide = ViewPlan::whole(2, 30000);
  wide.ops[wide.count++] = blur(1);
  add_augment(table, "too_wide", {wide});
  table.back().dtypes = {DType::f32};
  add_augment(table, "batch",
              std::vector<ViewPlan>(6, plan_of(48, 64, {3, 5, 40, 52}, 32, Filter::bilinear,
                                               {{.kind = Kind::flip},
                                                {.kind = Kind::brightness, .value = 1.2f},
                                                {.kind = Kind::saturation, .value = .7f},
                                                {.kind = Kind::contrast, .value = .7f},
                                                {.kind = Kind::hue, .value = 250},
                                                {.kind = Kind::gray},
                                                blur(1.3f)})));
  add_augment_errors(table);
}

void add_mix(OpTable& table, const std::string& name, const Shape& shape, double weight,
             const Rectangle& box) {
  table.push_back(
      {.name = "mix_reversed_" + name,
       .inputs = {real(shape)},
       .run = one_output([=](const VariableList& in) {
         return Variable(ops::mix_reversed(in[0].value(), weight, box));
       }),
       .reference = one_tensor([=](const TensorList& in) {
         const double* x = in[0].data<double>();
         const int64_t image = shape[1] * shape[2] * shape[3];
         return tabulate(shape, [&](int64_t i) {
           const int64_t row = i / (shape[2] * shape[3]) % shape[1],
                         column = i / shape[3] % shape[2];
           const bool inside = row >= box.top && row < box.top + box.height && column >= box.left &&
                               column < box.left + box.width;
           const double partner = x[(shape[0] - 1 - i / image) * image + i % image];
           return inside ? weight * x[i] + (1 - weight) * partner : x[i];
         });
       }),
       .differentiable = false,
       .errors = {FAILS("mix_reversed", ops::mix_reversed(Tensor::zeros({2, 3}), .5, {})),
                  FAILS("mix_reversed", ops::mix_reversed(Tensor::zeros({2, 3, 3, 1}), 1.5, {})),
                  FAILS("mix_reversed",
                        ops::mix_reversed(Tensor::zeros({2, 3, 3, 1}), .5, {0, 1, 3, 3}))}});
}

void add_erase(OpTable& table, const std::string& name, EraseFill fill) {
  const Shape shape{3, 7, 9, 3};
  const std::vector<EraseBox> boxes = {{0, {1, 2, 5, 7}}, {2, {0, 0, 1, 9}}, {2, {6, 8, 1, 1}}};
  const RandomKey key{11, 7};
  table.push_back(
      {.name = "erase_" + name,
       .inputs = {real(shape)},
       .run = one_output([=](const VariableList& in) {
         Tensor x = in[0].value().clone();
         ops::erase_(x, boxes, fill, key);
         return Variable(x);
       }),
       .reference = one_tensor([=](const TensorList& in) {
         // The number of an element is one of the fill of the whole tensor.
         const Tensor normal = ops::random_normal({shape.numel()}, key, 0, 1, DType::f64);
         return tabulate(shape, [&](int64_t i) {
           const int64_t row = i / 27 % 7, column = i / 3 % 9, image = i / 189;
           for (const EraseBox& e : boxes)
             if (e.image == image && row >= e.box.top && row < e.box.top + e.box.height &&
                 column >= e.box.left && column < e.box.left + e.box.width)
               return fill == EraseFill::constant ? 0.0
                      : fill == EraseFill::pixel  ? normal.data<double>()[i]
                                                  : normal.data<double>()[image * 3 + i % 3];
           return in[0].data<double>()[i];
         });
       }),
       .differentiable = false,
       .errors = {{"erase_", [=] {
                     Tensor x = Tensor::zeros({2, 3, 3, 1});
                     ops::erase_(x, boxes, fill, key);
                   }}}});
}

}  // namespace

void add_image_cases(OpTable& table) {
  add_augments(table);
  add_mix(table, "one", {1, 1, 1, 1}, .3, {0, 0, 1, 1});
  add_mix(table, "mixup", {3, 7, 5, 3}, .3, {0, 0, 7, 5});
  add_mix(table, "cutmix", {4, 9, 31, 3}, 0, {2, 5, 6, 20});
  add_mix(table, "targets", {4, 1, 1, 33}, .8, {0, 0, 1, 1});
  add_erase(table, "constant", EraseFill::constant);
  add_erase(table, "color", EraseFill::color);
  add_erase(table, "pixel", EraseFill::pixel);
  set_bench(table, "mix_reversed_mixup", {real({64, 224, 224, 3})});
  set_bench(table, "erase_pixel", {real({64, 224, 224, 3})});
}

}  // namespace facet::test
