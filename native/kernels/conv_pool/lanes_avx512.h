// The larger of two, a NaN where either is one (the instruction gives its second argument then); every other float of 32.
inline Vec larger(Vec a, Vec b) { return _mm512_mask_mov_ps(max(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a); }
inline Vec load_even(const float* p) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_permutex2var_ps(loadu(p), even, loadu(p + 16));
}
