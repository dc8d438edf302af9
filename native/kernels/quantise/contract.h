// Float rows to 8-bit rows: q = round(x / scale) + zero, saturated to 0..255; ties to even.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"

namespace rarefy::quantise {

struct Kernel {
  const char* name;
  Isa isa;
  // The least and greatest of n values and 0, a NaN passed over; poison: 0, or NaN where a value is not finite.
  void (*range)(const float* x, int n, float* low, float* high, float* poison) noexcept;
  // q[i] = saturate(round(x[i] * inverse) + zero); a NaN becomes 0.
  void (*round)(const float* x, int n, float inverse, std::int32_t zero, std::uint8_t* q) noexcept;
  // The same with a factor for every entry: inverse[i].
  void (*round_each)(const float* x, int n, const float* inverse, std::int32_t zero, std::uint8_t* q) noexcept;
};

const Kernel& best(Isa isa) noexcept;  // of the instruction sets up to `isa`

}  // namespace rarefy::quantise
