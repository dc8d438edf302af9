// A row of a strip into the panel: lanes named by `keep`, `outside` elsewhere. copy_even takes every other float. Floats of
// lanes that are not kept are never read: they may lie outside the image.
template <int strip>
inline void copy_strip(const float* from, unsigned keep, float outside, float* to) {
  if constexpr (strip == 16) _mm512_store_ps(to, _mm512_mask_loadu_ps(_mm512_set1_ps(outside), static_cast<__mmask16>(keep), from));
  else if constexpr (strip == 8) _mm256_store_ps(to, _mm256_mask_loadu_ps(_mm256_set1_ps(outside), static_cast<__mmask8>(keep), from));
  else _mm_store_ps(to, _mm_mask_loadu_ps(_mm_set1_ps(outside), static_cast<__mmask8>(keep), from));
}
template <int strip>
inline void copy_even(const float* from, unsigned keep, float outside, float* to) {
  const unsigned spread = _pdep_u32(keep, 0x55555555u);
  const __m512 empty = _mm512_set1_ps(outside);
  const __m512 low = _mm512_mask_loadu_ps(empty, static_cast<__mmask16>(spread), from);
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  if constexpr (strip == 16) {
    const __m512 high = _mm512_mask_loadu_ps(empty, static_cast<__mmask16>(spread >> 16), from + 16);
    _mm512_store_ps(to, _mm512_permutex2var_ps(low, even, high));
  } else {
    const __m256 half = _mm512_castps512_ps256(_mm512_permutexvar_ps(even, low));
    if constexpr (strip == 8) _mm256_store_ps(to, half);
    else _mm_store_ps(to, _mm256_castps256_ps128(half));
  }
}
template <int strip>
inline void fill_strip(float* to, float outside) {
  for (int lane = 0; lane < strip; lane += 4) _mm_store_ps(to + lane, _mm_set1_ps(outside));
}
