// A row of a strip into the panel: lanes named by `keep`, zeros elsewhere. copy_even takes every other float. Floats of
// lanes that are not kept are never read: they may lie outside the image.
template <int strip>
inline void copy_strip(const float* from, unsigned keep, float* to) {
  if constexpr (strip == 8) store(to, load_lanes(lanes(keep), from));
  else _mm_store_ps(to, _mm_maskload_ps(from, _mm256_castsi256_si128(lane_mask(lanes(keep)))));
}
template <int strip>
inline void copy_even(const float* from, unsigned keep, float* to) {
  const unsigned spread = _pdep_u32(keep, 0x5555u);
  const Vec low = load_lanes(lanes(spread & 0xffu), from);
  if constexpr (strip == 8) {
    const Vec high = spread >> 8 != 0 ? load_lanes(lanes(spread >> 8), from + 8) : zero();
    const Vec mixed = _mm256_shuffle_ps(low, high, 0x88);  // evens of both, by halves
    store(to, _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8)));
  } else {
    _mm_store_ps(to, _mm_shuffle_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1), 0x88));
  }
}
template <int strip>
inline void clear_strip(float* to) {
  for (int lane = 0; lane < strip; lane += 4) _mm_store_ps(to + lane, _mm_setzero_ps());
}
