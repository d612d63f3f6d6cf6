// Preprocessing of a bundle with float input: pixels are normalized here, where others have it in the graph.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "bundle.h"

namespace resnet_deploy::internal {

// Normalization of each channel's 256 values, in the order of operations that resnet_deploy/data/preprocessing.py has.
class Normalization {
 public:
  explicit Normalization(const Field& preprocessing);

  // Turns uint8 RGB pixels, images x area x 3, into numbers, images x 3 x area: float32, or the bits of float16.
  void apply(const std::uint8_t* pixels, std::size_t images, std::size_t area, float* target) const;
  void apply(const std::uint8_t* pixels, std::size_t images, std::size_t area, std::uint16_t* target) const;

 private:
  std::array<std::array<float, 256>, 3> values_{};
};

}  // namespace resnet_deploy::internal
