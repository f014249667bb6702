// Whole networks give what the official codes give (`facet selftest` runs the same table).
#include "apps/goldens.h"

#include <gtest/gtest.h>

#include <cmath>

namespace facet {
namespace {

void check(const std::string& network, DType dtype, size_t count) {
  const auto values = golden_values(network, {}, dtype);
  EXPECT_EQ(values.size(), count);
  for (const GoldenValue& v : values)
    EXPECT_TRUE(v.pass()) << v.name << ": got " << v.got << ", expected " << v.want << " within "
                          << v.tolerance;
}

TEST(Goldens, ResNet50) {
  check("resnet50", DType::f64, 10);
  check("resnet50", DType::f32, 10);
}
TEST(Goldens, ResNet50Training) {
  check("resnet50_train", DType::f64, 22);
  check("resnet50_train", DType::f32, 22);
}
TEST(Goldens, VitBase) {
  check("vit_base", DType::f64, 13);
  check("vit_base", DType::f32, 13);
}
TEST(Goldens, DinoVitBase) {
  check("dino_vit_base", DType::f64, 9);
  check("dino_vit_base", DType::f32, 9);
}
TEST(Goldens, MaeVitBase) {
  check("mae_vit_base", DType::f64, 12);
  check("mae_vit_base", DType::f32, 12);
}

TEST(Goldens, AWrongValueFails) {
  EXPECT_TRUE((GoldenValue{"", 1.0 + 1e-6, 1.0, 2e-6}.pass()));
  EXPECT_FALSE((GoldenValue{"", 1.0 + 3e-6, 1.0, 2e-6}.pass()));
  EXPECT_FALSE((GoldenValue{"", std::nan(""), 1.0, 2e-6}.pass()));
}

}  // namespace
}  // namespace facet
