// A row of a strip into the panel: lanes named by `keep`, `outside` elsewhere. copy_even takes every other float. Floats of
// lanes that are not kept are never read: they may lie outside the image.
// strip_or, even_or give whole vectors; even_of reads all floats.
inline Vec strip_or(const float* from, unsigned keep, float outside) {
  const __m256i mask = lane_mask(lanes(keep));
  return _mm256_blendv_ps(set1(outside), _mm256_maskload_ps(from, mask), _mm256_castsi256_ps(mask));
}
inline Vec evens(Vec low, Vec high) {
  const Vec mixed = _mm256_shuffle_ps(low, high, 0x88);  // evens of both, by halves
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}
inline Vec even_of(const float* from) { return evens(loadu(from), loadu(from + 8)); }
inline Vec even_or(const float* from, unsigned keep, float outside) {
  const unsigned spread = _pdep_u32(keep, 0x5555u);
  const Vec high = spread >> 8 != 0 ? strip_or(from + 8, spread >> 8, outside) : set1(outside);
  return evens(strip_or(from, spread & 0xffu, outside), high);
}
template <int strip>
inline void copy_strip(const float* from, unsigned keep, float outside, float* to) {
  if constexpr (strip == 8) {
    store(to, strip_or(from, keep, outside));
  } else {
    const __m128i mask = _mm256_castsi256_si128(lane_mask(lanes(keep)));
    _mm_store_ps(to, _mm_blendv_ps(_mm_set1_ps(outside), _mm_maskload_ps(from, mask), _mm_castsi128_ps(mask)));
  }
}
template <int strip>
inline void copy_even(const float* from, unsigned keep, float outside, float* to) {
  if constexpr (strip == 8) {
    store(to, even_or(from, keep, outside));
  } else {
    const Vec low = strip_or(from, _pdep_u32(keep, 0x55u), outside);
    _mm_store_ps(to, _mm_shuffle_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1), 0x88));
  }
}
template <int strip>
inline void fill_strip(float* to, float outside) {
  for (int lane = 0; lane < strip; lane += 4) _mm_store_ps(to + lane, _mm_set1_ps(outside));
}
