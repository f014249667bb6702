// Whole networks give what the official codes give (`facet selftest` runs the same table).
#include "apps/goldens.h"

#include <gtest/gtest.h>

#include <cmath>

namespace facet {
namespace {

class Goldens : public testing::TestWithParam<std::pair<std::string, size_t>> {};

TEST_P(Goldens, HoldInBothTypes) {
  const auto& [network, count] = GetParam();
  for (const DType dtype : {DType::f64, DType::f32}) {
    const auto values = golden_values(network, {}, dtype);
    EXPECT_EQ(values.size(), count);
    for (const GoldenValue& v : values)
      EXPECT_TRUE(v.pass()) << v.name << ": got " << v.got << ", expected " << v.want << " within "
                            << v.tolerance;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Goldens,
                         testing::Values(std::pair{"resnet50", 10}, std::pair{"resnet50_train", 22},
                                         std::pair{"vit_base", 13}, std::pair{"dino_vit_base", 9},
                                         std::pair{"mae_vit_base", 12}),
                         [](const auto& test) { return test.param.first; });

TEST(GoldenValues, AWrongValueFails) {
  EXPECT_TRUE((GoldenValue{"", 1.0 + 1e-6, 1.0, 2e-6}.pass()));
  EXPECT_FALSE((GoldenValue{"", 1.0 + 3e-6, 1.0, 2e-6}.pass()));
  EXPECT_FALSE((GoldenValue{"", std::nan(""), 1.0, 2e-6}.pass()));
}

}  // namespace
}  // namespace facet
