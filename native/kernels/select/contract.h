// Which inputs are kept: the passes over a token's inputs that go entry by entry.
#pragma once

#include <cstdint>

#include "core/features.h"

namespace rarefy::choose {

struct Kernel {
  Isa isa;
  // to = x where |x| * weight (null: 1) is above the threshold, or is no number, else 0; thresholds are `step` (0 or 1)
  // apart. `to` may be x here and below.
  void (*above)(const float* x, const float* threshold, int step, const float* weight, int width, float* to) noexcept;
  // to = x where it is above 0 or no number, else 0.
  void (*positive)(const float* x, int width, float* to) noexcept;
  // |x| * weight (null: 1) as integers that compare like it; NaN is the largest.
  void (*sizes)(const float* x, const float* weight, int width, std::uint32_t* to) noexcept;
  // How many sizes are above the edge, and how many are at least as large.
  void (*count)(const std::uint32_t* size, std::uint32_t edge, int width, int* above, int* from) noexcept;
  // to = x where its size is at least the edge, else 0.
  void (*from)(const std::uint32_t* size, std::uint32_t edge, const float* x, int width, float* to) noexcept;
};

// The instance for an instruction set.
const Kernel& kernel(Isa isa) noexcept;

}  // namespace rarefy::choose
