// Lines of 128 4-bit values; see simd/packed4_avx512.h. Included after simd/stored_avx2.h.

using Worth = Vec;
inline Worth worth(float x) { return set1(x); }

inline Vec worth_of(Worth by, const unsigned char* line, int place, int part) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + 32 * part));
  return mul(by, _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 28 - 4 * place), 28)));
}

inline Vec words_to_floats(const unsigned char* p) { return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(load_16(p))); }
