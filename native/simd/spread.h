// Byte shuffles that put consecutive values into the lanes that a mask of 8 bits names: lane i comes from place "how many
// bits lie below bit i", or from 0x80 (which a byte shuffle turns into 0) if bit i is not set.
#pragma once

#include <cstdint>

namespace rarefy {

struct Spread {
  alignas(64) std::uint64_t bytes[256];  // lanes of one byte
  alignas(64) std::uint64_t words[256][2];  // lanes of two
};

constexpr Spread make_spread() {
  Spread table{};
  for (int mask = 0; mask < 256; ++mask)
    for (int i = 0, next = 0; i < 8; ++i) {
      const std::uint64_t from = mask >> i & 1 ? static_cast<std::uint64_t>(next++) : 0x80u;
      const std::uint64_t pair = from == 0x80u ? 0x8080u : 2 * from | (2 * from + 1) << 8;
      table.bytes[mask] |= from << (8 * i);
      table.words[mask][i / 4] |= pair << (16 * (i % 4));
    }
  return table;
}

inline constexpr Spread spread = make_spread();

}  // namespace rarefy
