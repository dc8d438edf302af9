// Lines of a block from a bitmap and the entries that are not zero (pack/lines.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::expand {

inline constexpr int ahead = 4096;  // bytes of values that are asked for before their turn

// Writes `lines` lines of 64 bytes, aligned; may read 64 bytes behind the last value. Returns the value after the last
// one used, so that a block can be expanded in pieces.
using Expand = const std::uint8_t* (*)(const std::uint8_t* masks, const std::uint8_t* values, int lines,
                                       std::uint8_t* to) noexcept;

struct Kernel {
  const char* name;
  Isa isa;
  bool vbmi2;      // also needs AVX512_VBMI2, which a CPU with VNNI may lack
  Expand bytes;    // lines of 64 one-byte entries
  Expand halves;   // lines of 32 two-byte entries
  Expand widened;  // lines of 16 bfloat16 entries, as floats; null in vbmi2, like the next: avx512 has them
  Expand floats;   // lines of 16 floats
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;  // best first
const Kernel& named(const char* name) noexcept;  // the portable one where there is no such instance

}  // namespace rarefy::expand
