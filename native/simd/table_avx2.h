// Lanes picked out of the 2 x width floats of two vectors, by a byte each. Included after simd/avx2.h.
struct TableOfTwo {
  Vec low, high;
};
using Places = __m256i;
inline TableOfTwo table_of(const float* p) { return {loadu(p), loadu(p + width)}; }
inline Places places_at(const unsigned char* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
inline Vec pick(const TableOfTwo& t, Places places) {
  const Vec in_high = _mm256_castsi256_ps(_mm256_slli_epi32(places, 28));  // the bit of `width` becomes the sign
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(t.low, places), _mm256_permutevar8x32_ps(t.high, places), in_high);
}
