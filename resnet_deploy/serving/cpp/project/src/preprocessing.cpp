#include "preprocessing.h"

#include <cmath>
#include <string>

#include "errors.h"
#include "tensors.h"

namespace resnet_deploy::internal {
namespace {

constexpr std::size_t kChannels = 3;

// As in resnet_deploy/specs.py.
constexpr double kMaxMean = 10;
constexpr double kMinDeviation = 1e-4;
constexpr double kMaxDeviation = 100;

}  // namespace

Normalization::Normalization(const Field& preprocessing) {
  const auto mean = preprocessing.at("mean").list();
  const auto deviation = preprocessing.at("std").list();
  if (mean.size() != kChannels || deviation.size() != kChannels) {
    throw_input_error("manifest.json: mean and std are of three channels" + std::string(kRemake));
  }
  for (std::size_t channel = 0; channel < kChannels; ++channel) {
    if (std::fabs(mean[channel].number()) > kMaxMean || deviation[channel].number() < kMinDeviation ||
        deviation[channel].number() > kMaxDeviation) {
      throw_input_error("manifest.json: mean is -10 to 10 and std 0.0001 to 100, of values in [0, 1]" + std::string(kRemake));
    }
    const auto shift = static_cast<float>(mean[channel].number());
    const auto scale = static_cast<float>(deviation[channel].number());
    for (std::size_t value = 0; value < 256; ++value) {
      values_.at(channel).at(value) = (static_cast<float>(value) / 255.0F - shift) / scale;
      halves_.at(channel).at(value) = float_to_half(values_.at(channel).at(value));
    }
  }
}

template <typename Number>
void Normalization::write_planes(const Table<Number>& table, const std::uint8_t* pixels, std::size_t images, std::size_t area,
                                 Number* target) {
  for (std::size_t image = 0; image < images; ++image, pixels += kChannels * area) {
    for (std::size_t channel = 0; channel < kChannels; ++channel) {
      const std::array<Number, 256>& numbers = table[channel];
      for (std::size_t i = 0; i < area; ++i) *target++ = numbers[pixels[kChannels * i + channel]];
    }
  }
}

void Normalization::apply(const std::uint8_t* pixels, std::size_t images, std::size_t area, float* target) const {
  write_planes(values_, pixels, images, area, target);
}

void Normalization::apply(const std::uint8_t* pixels, std::size_t images, std::size_t area, std::uint16_t* target) const {
  write_planes(halves_, pixels, images, area, target);
}

}  // namespace resnet_deploy::internal
