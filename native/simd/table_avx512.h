// Lanes picked out of the 2 x width floats of two vectors, by a byte each. Included after simd/avx512.h.
struct TableOfTwo {
  Vec low, high;
};
using Places = __m512i;
inline TableOfTwo table_of(const float* p) { return {loadu(p), loadu(p + width)}; }
inline Places places_at(const unsigned char* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline Vec pick(const TableOfTwo& t, Places places) { return _mm512_permutex2var_ps(t.low, places, t.high); }
