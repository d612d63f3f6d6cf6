// Tensors: their sizes in memory, their shapes in messages, and half precision.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "resnet_deploy.h"

namespace resnet_deploy::internal {

// The size of a batch of a tensor. Throws Error where no memory holds it.
std::size_t element_count(const TensorSpec& spec, std::int64_t batch);
std::size_t byte_count(const TensorSpec& spec, std::int64_t batch);

std::string shape_text(const std::vector<std::int64_t>& shape);

float half_to_float(std::uint16_t half);
std::uint16_t float_to_half(float value);  // rounded to the nearest, ties to even

}  // namespace resnet_deploy::internal
