// The AVX-512 instance: only entries of 32 bits have an expanding instruction there.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/expand/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/expand/shuffles.h"
#include "kernels/expand/floats.h"

const std::uint8_t* expand_widened_whole(const std::uint8_t* masks, const std::uint8_t* values, int lines,
                                         std::uint8_t* to) noexcept {
  for (int l = 0; l < lines; ++l, masks += 2, to += 64) {
    const unsigned bits = masks[0] | masks[1] << 8;
    const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
    const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(packed), 16);
    _mm512_store_si512(to, _mm512_mask_expand_epi32(cleared(), static_cast<__mmask16>(bits), wide));
    values += 2 * __builtin_popcount(bits);
  }
  return values;
}
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::expand {
extern const Kernel kernel_avx512 = {"avx512", Isa::avx512, false, avx512::expand_bytes, avx512::expand_halves,
                                     avx512::expand_widened_whole, avx512::expand_floats};
}  // namespace rarefy::expand
#endif
