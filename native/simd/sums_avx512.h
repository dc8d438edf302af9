// Adds eight vectors across their lanes at once; after avx512.h.
inline Vec sums4(Vec a, Vec b, Vec c, Vec d) {  // in each block of four lanes: the block's sum of a, b, c, d
  const __m512d ab = _mm512_castps_pd(add(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
  const __m512d cd = _mm512_castps_pd(add(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
  return add(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
}
inline __m256 halves(Vec a) { return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)); }

// to[i] += sum of v[i] for i < n
inline void add_sums8(const Vec (&v)[8], float* to, int n) {
  const __m256 low = halves(sums4(v[0], v[1], v[2], v[3])), high = halves(sums4(v[4], v[5], v[6], v[7]));
  const __m256 all = _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
  const __mmask8 keep = static_cast<__mmask8>((1u << n) - 1u);
  _mm256_mask_storeu_ps(to, keep, _mm256_add_ps(all, _mm256_maskz_loadu_ps(keep, to)));
}
