// Whole networks give what the official codes give (`facet selftest` runs the same table).
#include "apps/goldens.h"

#include <gtest/gtest.h>

#include <cmath>

namespace facet {
namespace {

void check(const std::string& network, size_t count) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    const auto values = golden_values(network, {}, dtype);
    EXPECT_EQ(values.size(), count);
    for (const GoldenValue& v : values)
      EXPECT_TRUE(v.pass()) << v.name << ": got " << v.got << ", expected " << v.want << " within "
                            << v.tolerance;
  }
}

TEST(Goldens, ResNet50) {
  check("resnet50", 10);
}
TEST(Goldens, ResNet50Training) {
  check("resnet50_train", 22);
}
TEST(Goldens, VitBase) {
  check("vit_base", 13);
}
TEST(Goldens, DinoVitBase) {
  check("dino_vit_base", 9);
}
TEST(Goldens, MaeVitBase) {
  check("mae_vit_base", 12);
}

TEST(Goldens, AWrongValueFails) {
  EXPECT_TRUE((GoldenValue{"", 1.0 + 1e-6, 1.0, 2e-6}.pass()));
  EXPECT_FALSE((GoldenValue{"", 1.0 + 3e-6, 1.0, 2e-6}.pass()));
  EXPECT_FALSE((GoldenValue{"", std::nan(""), 1.0, 2e-6}.pass()));
}

}  // namespace
}  // namespace facet
