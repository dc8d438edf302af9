// The instance for VBMI2 (Ice Lake, Zen 4 and later): bytes and 16-bit entries expand in one instruction.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/expand/contract.h"

RAREFY_BEGIN_VBMI2
namespace rarefy::vbmi2 {
namespace {
#include "simd/avx512.h"

// The hardware's prefetcher starts anew at every page, and two streams are read: both are asked for ahead.
inline void ask_ahead(const std::uint8_t* masks, const std::uint8_t* values) {
  __builtin_prefetch(values + expand::ahead, 0, in_passing);
  __builtin_prefetch(masks + expand::ahead / 4, 0, in_passing);
}

const std::uint8_t* expand_bytes(const std::uint8_t* masks, const std::uint8_t* values, int lines,
                                 std::uint8_t* to) noexcept {
  for (int l = 0; l < lines; ++l, masks += 8, to += 64) {
    ask_ahead(masks, values);
    std::uint64_t bits;
    __builtin_memcpy(&bits, masks, sizeof bits);
    _mm512_store_si512(to, _mm512_mask_expand_epi8(cleared(), bits, on_its_own(_mm512_loadu_si512(values))));
    values += __builtin_popcountll(bits);
  }
  return values;
}

const std::uint8_t* expand_halves(const std::uint8_t* masks, const std::uint8_t* values, int lines,
                                  std::uint8_t* to) noexcept {
  for (int l = 0; l < lines; ++l, masks += 4, to += 64) {
    ask_ahead(masks, values);
    std::uint32_t bits;
    __builtin_memcpy(&bits, masks, sizeof bits);
    _mm512_store_si512(to, _mm512_mask_expand_epi16(cleared(), bits, on_its_own(_mm512_loadu_si512(values))));
    values += 2 * __builtin_popcount(bits);
  }
  return values;
}
}  // namespace
}  // namespace rarefy::vbmi2
RAREFY_END_REGION

namespace rarefy::expand {
extern const Kernel kernel_vbmi2 = {"vbmi2", Isa::avx512, true, vbmi2::expand_bytes, vbmi2::expand_halves, nullptr, nullptr};
}  // namespace rarefy::expand
#endif
