// Where the kept ones of 8 lanes come from: byte i of entry m is how many bits of m lie below bit i, or 0x80 (which a
// byte shuffle turns into 0) if bit i is not set.
#pragma once

#include <array>
#include <cstdint>

namespace rarefy {

struct SpreadTable {
  alignas(64) std::uint64_t order[256];
};

constexpr SpreadTable make_spread() {
  SpreadTable table{};
  for (int mask = 0; mask < 256; ++mask) {
    std::uint64_t order = 0;
    for (int i = 0, next = 0; i < 8; ++i) {
      const std::uint64_t from = mask >> i & 1 ? static_cast<std::uint64_t>(next++) : 0x80u;
      order |= from << (8 * i);
    }
    table.order[mask] = order;
  }
  return table;
}

inline constexpr SpreadTable spread = make_spread();

}  // namespace rarefy
