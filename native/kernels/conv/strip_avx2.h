// A row of a strip into the panel: lanes named by `keep`, `outside` elsewhere. copy_even takes every other float. Floats of
// lanes that are not kept are never read: they may lie outside the image.
inline Vec load_or(const float* from, unsigned keep, Vec outside) {
  const __m256i mask = lane_mask(lanes(keep));
  return _mm256_blendv_ps(outside, _mm256_maskload_ps(from, mask), _mm256_castsi256_ps(mask));
}
template <int strip>
inline void copy_strip(const float* from, unsigned keep, float outside, float* to) {
  if constexpr (strip == 8) {
    store(to, load_or(from, keep, set1(outside)));
  } else {
    const __m128i mask = _mm256_castsi256_si128(lane_mask(lanes(keep)));
    _mm_store_ps(to, _mm_blendv_ps(_mm_set1_ps(outside), _mm_maskload_ps(from, mask), _mm_castsi128_ps(mask)));
  }
}
template <int strip>
inline void copy_even(const float* from, unsigned keep, float outside, float* to) {
  const unsigned spread = _pdep_u32(keep, 0x5555u);
  const Vec empty = set1(outside), low = load_or(from, spread & 0xffu, empty);
  if constexpr (strip == 8) {
    const Vec high = spread >> 8 != 0 ? load_or(from + 8, spread >> 8, empty) : empty;
    const Vec mixed = _mm256_shuffle_ps(low, high, 0x88);  // evens of both, by halves
    store(to, _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8)));
  } else {
    _mm_store_ps(to, _mm_shuffle_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1), 0x88));
  }
}
template <int strip>
inline void fill_strip(float* to, float outside) {
  for (int lane = 0; lane < strip; lane += 4) _mm_store_ps(to + lane, _mm_set1_ps(outside));
}
