// The integer operations that 8-bit kernel bodies use, 16 sums wide, with the 8-bit dot product of VNNI.
// Included after simd/avx512.h inside a region that has it.
#include "simd/ints_avx512.h"
constexpr bool exact_pairs = true;  // any pair of products may be summed

// sum + four unsigned bytes of x times four signed bytes of w, in each lane.
inline Ints dot4(Ints sum, Ints x, Ints w) { return _mm512_dpbusd_epi32(sum, x, w); }

// sum + the products of the 16-bit halves of each lane.
inline Ints plus_products(Ints sum, Ints a, Ints b) { return _mm512_dpwssd_epi32(sum, a, b); }
