#pragma once

#include <string>

#include "tensor/image.h"

namespace facet {

std::string encode_png(const Image& image);

}  // namespace facet
