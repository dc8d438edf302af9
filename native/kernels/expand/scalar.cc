// The portable instance.
#include "kernels/expand/contract.h"

namespace rarefy::expand {
namespace {

// Item: as stored; Wide: as written, the item's bits at the top (a bfloat16 is the upper half of a float).
template <class Item, class Wide, int entries>
const std::uint8_t* expand(const std::uint8_t* masks, const std::uint8_t* values, int lines, std::uint8_t* to) noexcept {
  constexpr int shift = 8 * static_cast<int>(sizeof(Wide) - sizeof(Item));
  for (int at = 0; at < lines * entries; ++at, to += sizeof(Wide)) {
    Wide wide = 0;
    if (masks[at / 8] >> at % 8 & 1u) {
      Item item;
      __builtin_memcpy(&item, values, sizeof item);
      values += sizeof item;
      wide = static_cast<Wide>(static_cast<Wide>(item) << shift);
    }
    __builtin_memcpy(to, &wide, sizeof wide);
  }
  return values;
}

}  // namespace

extern const Kernel kernel_scalar = {"scalar",
                                     Isa::scalar,
                                     false,
                                     expand<std::uint8_t, std::uint8_t, 64>,
                                     expand<std::uint16_t, std::uint16_t, 32>,
                                     expand<std::uint16_t, std::uint32_t, 16>,
                                     expand<std::uint32_t, std::uint32_t, 16>};

}  // namespace rarefy::expand
