#include "tensors.h"

#include <cmath>
#include <cstring>

#include "errors.h"

namespace resnet_deploy::internal {
namespace {

constexpr std::int64_t kMaxElements = std::int64_t{1} << 40U;

std::size_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::uint8:
      return 1;
    case DType::float16:
      return 2;
    case DType::float32:
      return 4;
    case DType::int64:
      return 8;
  }
  return 0;
}

}  // namespace

std::size_t element_count(const TensorSpec& spec, std::int64_t batch) {
  std::int64_t count = batch;
  bool fits = batch >= 1 && batch <= kMaxElements;
  for (const std::int64_t size : spec.shape) {
    fits = fits && size >= 1 && count <= kMaxElements / size;
    if (fits) count *= size;
  }
  if (!fits) {
    throw_input_error("no memory holds a batch of " + std::to_string(batch) + " of the model's " + spec.name + " of shape " +
                      shape_text(spec.shape) + ": use a smaller batch, or make the bundle again");
  }
  return static_cast<std::size_t>(count);
}

std::size_t byte_count(const TensorSpec& spec, std::int64_t batch) {
  return element_count(spec, batch) * element_bytes(spec.dtype);
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[batch";
  for (const std::int64_t size : shape) text += ", " + std::to_string(size);
  return text + "]";
}

float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16U;
  const std::uint32_t exponent = half >> 10U & 0x1FU;
  const std::uint32_t mantissa = half & 0x3FFU;
  if (exponent == 0) {  // zero and subnormal numbers: multiples of 2^-24
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -value : value;
  }
  const std::uint32_t bits = sign | (exponent == 0x1F ? 0xFFU : exponent + 112) << 23U | mantissa << 13U;
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

std::uint16_t float_to_half(float value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000U : 0U);
  const float size = std::fabs(value);
  if (size >= 65520.0F) return static_cast<std::uint16_t>(sign | 0x7C00U);
  int exponent = -13;  // of subnormal numbers, whose steps stay 2^-24
  if (size >= 6.103515625e-05F) std::frexp(size, &exponent);
  const auto steps = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(size, 11 - exponent)));
  return static_cast<std::uint16_t>(sign | ((static_cast<std::uint32_t>(exponent + 13) << 10U) + steps));  // carries are right
}

}  // namespace resnet_deploy::internal
