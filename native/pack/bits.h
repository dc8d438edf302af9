// A float weight as the bits that are stored of it: 32, or the 16 of a bfloat16.
#pragma once

#include <bit>
#include <cstdint>

#include "pack/keep.h"

namespace rarefy {

inline std::uint16_t to_bf16(float value) {  // to nearest, ties to even; a NaN stays one
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float from_bf16(std::uint16_t high) { return std::bit_cast<float>(static_cast<std::uint32_t>(high) << 16); }

inline std::uint32_t bits_of(float value, bool bf16) {  // 0: not there
  const float as_stored = bf16 ? from_bf16(to_bf16(value)) : value;
  const auto bits = std::bit_cast<std::uint32_t>(as_stored);
  return kept(as_stored) ? bf16 ? bits >> 16 : bits : 0;
}

}  // namespace rarefy
