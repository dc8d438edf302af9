// The larger of two, a NaN where either is one (the instruction gives its second argument then); every other float of 16.
inline Vec larger(Vec a, Vec b) { return _mm256_blendv_ps(max(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
inline Vec load_even(const float* p) {
  const Vec mixed = _mm256_shuffle_ps(loadu(p), loadu(p + 8), 0x88);  // evens of both, by halves
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}
