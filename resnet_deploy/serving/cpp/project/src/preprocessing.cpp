#include "preprocessing.h"

#include <string>

#include "errors.h"
#include "tensors.h"

namespace resnet_deploy::internal {
namespace {

constexpr std::size_t kChannels = 3;

// Writes the planes of each image; convert: of a pixel of a channel.
template <typename Number, typename Convert>
void write_planes(const std::uint8_t* pixels, std::size_t images, std::size_t area, Number* target, const Convert& convert) {
  for (std::size_t image = 0; image < images; ++image, pixels += kChannels * area) {
    for (std::size_t channel = 0; channel < kChannels; ++channel) {
      for (std::size_t i = 0; i < area; ++i) *target++ = convert(channel, pixels[kChannels * i + channel]);
    }
  }
}

}  // namespace

Normalization::Normalization(const Field& preprocessing) {
  const auto mean = preprocessing.at("mean").list();
  const auto deviation = preprocessing.at("std").list();
  if (mean.size() != kChannels || deviation.size() != kChannels) {
    throw_input_error("manifest.json: mean and std are of three channels" + std::string(kRemake));
  }
  for (std::size_t channel = 0; channel < kChannels; ++channel) {
    const auto shift = static_cast<float>(mean[channel].number());
    const auto scale = static_cast<float>(deviation[channel].number());
    for (std::size_t value = 0; value < 256; ++value) {
      values_.at(channel).at(value) = (static_cast<float>(value) / 255.0F - shift) / scale;
    }
  }
}

void Normalization::apply(const std::uint8_t* pixels, std::size_t images, std::size_t area, float* target) const {
  write_planes(pixels, images, area, target,
               [this](std::size_t channel, std::uint8_t pixel) { return values_[channel][pixel]; });
}

void Normalization::apply(const std::uint8_t* pixels, std::size_t images, std::size_t area, std::uint16_t* target) const {
  write_planes(pixels, images, area, target,
               [this](std::size_t channel, std::uint8_t pixel) { return float_to_half(values_[channel][pixel]); });
}

}  // namespace resnet_deploy::internal
