// Lines of 128 4-bit values: 16 words of 32 bits, value 16 * place + i is nibble `place` of word i. Each of the 16 codes is
// looked up in a table of what it is worth, so that neither a sign nor a product has to be computed for a value.

using Worth = Vec;  // of codes 0, ..., 7, -8, ..., -1
inline Worth worth(float x) { return mul(set1(x), _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1)); }

// Values [16 place + width part, ... + width) of a line.
inline Vec worth_of(Worth by, const unsigned char* line, int place, int) {
  return _mm512_permutexvar_ps(_mm512_srli_epi32(_mm512_loadu_si512(line), 4 * place), by);  // looks at four bits alone
}

inline Vec words_to_floats(const unsigned char* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
