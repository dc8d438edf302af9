// The places of the bits that are set in a byte, a byte each.
#pragma once

#include <cstdint>

namespace rarefy::matvec4 {

struct Places {
  alignas(64) std::uint64_t of[256];
};

constexpr Places make_places() {
  Places table{};
  for (int mask = 0; mask < 256; ++mask)
    for (int i = 0, next = 0; i < 8; ++i)
      if (mask >> i & 1) table.of[mask] |= static_cast<std::uint64_t>(i) << (8 * next++);
  return table;
}

inline constexpr Places places = make_places();

}  // namespace rarefy::matvec4
