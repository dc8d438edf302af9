// Which groups of a row are there, from its bits, without a branch.
#pragma once

#include <cstdint>
#include <cstring>

namespace rarefy::matvec4 {

struct Places {
  alignas(64) std::uint64_t of[256][2];  // the places of the bits that are set, 16 bits each
};

constexpr Places make_places() {
  Places table{};
  for (int mask = 0; mask < 256; ++mask)
    for (int i = 0, next = 0; i < 8; ++i)
      if (mask >> i & 1) {
        table.of[mask][next / 4] |= static_cast<std::uint64_t>(i) << (16 * (next % 4));
        ++next;
      }
  return table;
}

inline constexpr Places places = make_places();

}  // namespace rarefy::matvec4
