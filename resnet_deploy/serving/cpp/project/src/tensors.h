// Tensors: their sizes in memory, their shapes in messages, and half precision.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "resnet_deploy.h"

namespace resnet_deploy::internal {

// Elements of an image. Throws Error for a shape that no memory holds.
std::size_t element_count(const TensorSpec& spec);
std::size_t image_bytes(const TensorSpec& spec);

std::string shape_text(const std::vector<std::int64_t>& shape);

float half_to_float(std::uint16_t half);
std::uint16_t float_to_half(float value);  // rounded to the nearest, ties to even

}  // namespace resnet_deploy::internal
