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
  template <typename Number>
  using Table = std::array<std::array<Number, 256>, 3>;  // of a channel's value

  template <typename Number>
  static void write_planes(const Table<Number>& table, const std::uint8_t* pixels, std::size_t images, std::size_t area,
                           Number* target);

  Table<float> values_{};
  Table<std::uint16_t> halves_{};  // the same, rounded once
};

}  // namespace resnet_deploy::internal
