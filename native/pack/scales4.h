// Scales of 4-bit codes, one for every 16 inputs of a row: 16-bit shares of the row's largest.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "ops/layout.h"

namespace rarefy::scales4 {

inline constexpr int group_inputs = 16;
inline constexpr float full = 65535.0f;

// Throws std::invalid_argument unless the weight is 4-bit codes whose scales no group of 16 inputs straddles.
inline void require(const WeightSource& weight, const std::string& kernel) {
  const std::string who = "pack: kernel " + kernel;
  if (weight.bits != 4) throw std::invalid_argument(who + " stores 4-bit codes, got " + std::to_string(weight.bits) + " bits");
  const int width = weight.groups > 0 ? weight.in / weight.groups : weight.in;
  if (weight.groups > 1 && width % group_inputs != 0)
    throw std::invalid_argument(who + " takes a scale for every 16 inputs or a multiple of them, got one for every " +
                                std::to_string(width) + "; quantize_weight(..., group=16) gives such scales");
}

// Of the 16 inputs from 16 * group on; groups behind the last input take the last scale.
inline float of(const WeightSource& weight, int row, int group) {
  const int width = std::max(1, weight.in / std::max(1, weight.groups));
  const int at = std::min(group * group_inputs / width, weight.groups - 1);
  return weight.scales[static_cast<std::size_t>(row) * weight.groups + at];
}

inline float largest(const WeightSource& weight, int row) {
  float most = 0.0f;
  for (int g = 0; g < weight.groups; ++g) most = std::max(most, weight.scales[static_cast<std::size_t>(row) * weight.groups + g]);
  return most > 0.0f ? most : 1.0f;
}

inline std::uint16_t rounded(float scale, float most) {
  return static_cast<std::uint16_t>(std::clamp(std::nearbyintf(scale / most * full), 1.0f, full));
}

}  // namespace rarefy::scales4
