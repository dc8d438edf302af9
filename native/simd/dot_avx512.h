// The integer operations that 8-bit kernel bodies use, 16 sums wide, without VNNI. Included after simd/avx512.h.
#include "simd/ints_avx512.h"
constexpr bool exact_pairs = false;  // the sum of a pair of products saturates at 16 bits: weights are packed so that none does

// sum + four unsigned bytes of x times four signed bytes of w, in each lane.
inline Ints dot4(Ints sum, Ints x, Ints w) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(x, w), _mm512_set1_epi16(1)));
}

// sum + the products of the 16-bit halves of each lane.
inline Ints plus_products(Ints sum, Ints a, Ints b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }
