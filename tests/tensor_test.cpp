#include <gtest/gtest.h>
#include "tensor/tensor.h"
TEST(Tensor, Basics) { auto t = facet::Tensor::full({2,3}, 1.5); EXPECT_EQ(t.to_vector<double>()[4], 1.5); }
