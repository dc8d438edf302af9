// Which floats of an array are not 0, and putting those together. Included after simd/avx512.h.

// Bit i: p[i] is not 0 (or is no number); i < n <= width.
inline unsigned nonzero(const float* p, int n) {
  const __mmask16 there = n < width ? first_lanes(n) : static_cast<__mmask16>(0xffff);
  return _mm512_mask_cmp_ps_mask(there, _mm512_maskz_loadu_ps(there, p), zero(), _CMP_NEQ_UQ);
}

// The floats of p that bits name, one after the other; `width` places of `to` are written.
inline void put_named(unsigned bits, const float* p, float* to) {
  const auto keep = static_cast<__mmask16>(bits);
  storeu(to, _mm512_mask_compress_ps(_mm512_castsi512_ps(cleared()), keep, _mm512_maskz_loadu_ps(keep, p)));
}

// The same of the numbers first, first + 1, ...
inline void put_numbers(unsigned bits, int first, std::int32_t* to) {
  const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  _mm512_storeu_si512(to, _mm512_mask_compress_epi32(cleared(), static_cast<__mmask16>(bits), _mm512_add_epi32(steps, _mm512_set1_epi32(first))));
}
