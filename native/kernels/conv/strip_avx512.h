// A row of a strip into the panel: lanes named by `keep`, `outside` elsewhere. copy_even takes every other float. Floats of
// lanes that are not kept are never read: they may lie outside the image.
// strip_or, even_or give whole vectors; even_of reads all floats.
inline Vec strip_or(const float* from, unsigned keep, float outside) {
  return _mm512_mask_loadu_ps(set1(outside), static_cast<__mmask16>(keep), from);
}
inline Vec evens(Vec low, Vec high) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_permutex2var_ps(low, even, high);
}
inline Vec even_of(const float* from) { return evens(loadu(from), loadu(from + 16)); }
inline Vec even_or(const float* from, unsigned keep, float outside) {
  const unsigned spread = _pdep_u32(keep, 0x55555555u);
  return evens(strip_or(from, spread & 0xffffu, outside), strip_or(from + 16, spread >> 16, outside));
}
template <int strip>
inline void copy_strip(const float* from, unsigned keep, float outside, float* to) {
  if constexpr (strip == 16) store(to, strip_or(from, keep, outside));
  else if constexpr (strip == 8) _mm256_store_ps(to, _mm256_mask_loadu_ps(_mm256_set1_ps(outside), static_cast<__mmask8>(keep), from));
  else _mm_store_ps(to, _mm_mask_loadu_ps(_mm_set1_ps(outside), static_cast<__mmask8>(keep), from));
}
template <int strip>
inline void copy_even(const float* from, unsigned keep, float outside, float* to) {
  if constexpr (strip == 16) {
    store(to, even_or(from, keep, outside));
  } else {
    const __m256 half = _mm512_castps512_ps256(evens(strip_or(from, _pdep_u32(keep, 0x5555u), outside), zero()));
    if constexpr (strip == 8) _mm256_store_ps(to, half);
    else _mm_store_ps(to, _mm256_castps256_ps128(half));
  }
}
template <int strip>
inline void fill_strip(float* to, float outside) {
  for (int lane = 0; lane < strip; lane += 4) _mm_store_ps(to + lane, _mm_set1_ps(outside));
}
