// The integer operations beside simd/avx512.h. Included inside a target region and a namespace.
using Ints = __m512i;

inline Ints load_ints(const std::int32_t* p) { return _mm512_loadu_si512(p); }
// a - b * c, modulo 2^32
inline Ints subtract_product(Ints a, Ints b, std::int32_t c) {
  return _mm512_sub_epi32(a, _mm512_mullo_epi32(b, _mm512_set1_epi32(c)));
}
inline Ints no_ints() { return _mm512_setzero_si512(); }
inline Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Vec to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }

// The first n lanes, rounded to nearest (ties to even), plus zero, saturated to bytes.
inline void store_bytes(std::uint8_t* p, Vec v, std::int32_t zero, int n) {
  const Vec bounded = max(set1(-70000.0f), min(v, set1(70000.0f)));  // zero is at most 2^16 away: sums stay in range
  const __m512i shifted = _mm512_add_epi32(_mm512_cvtps_epi32(bounded), _mm512_set1_epi32(zero));
  const __m512i positive = _mm512_max_epi32(shifted, _mm512_setzero_si512());
  _mm512_mask_cvtusepi32_storeu_epi8(p, first_lanes(n), positive);
}

// 32 of them. The conversion makes a large negative number of what is too large: bounded above first.
inline void store_32_bytes(std::uint8_t* p, const Vec (&v)[2], std::int32_t zero) {
  const Vec most = set1(70000.0f);
  const __m512i low = _mm512_cvtps_epi32(min(v[0], most)), high = _mm512_cvtps_epi32(min(v[1], most));
  const __m512i words = _mm512_adds_epi16(_mm512_packs_epi32(low, high), _mm512_set1_epi16(static_cast<short>(zero)));
  const __m256i mixed = _mm256_packus_epi16(_mm512_castsi512_si256(words), _mm512_extracti64x4_epi64(words, 1));
  // words lie in fours of low and high by turns; the byte pack takes its two halves' lanes by turns
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7)));
}

// Exact products of bytes by way of 16 bits: 32 signed bytes widened; one token's 4 bytes, widened, in every 64 bits.
constexpr int words_per_vector = 32;
inline Ints widen(const std::uint8_t* p) { return _mm512_cvtepi8_epi16(_mm256_load_si256(reinterpret_cast<const __m256i*>(p))); }
inline Ints four_of_token(const std::uint8_t* p) {
  int four;
  __builtin_memcpy(&four, p, sizeof four);
  return _mm512_cvtepu8_epi16(_mm256_set1_epi32(four));
}
inline Ints add_pairs(Ints sums, Ints a, Ints b) { return _mm512_add_epi32(sums, _mm512_madd_epi16(a, b)); }
// Adds neighbouring lanes of the sums of 16 rows (2 vectors of 8 rows x 2 halves) and stores 16 integers, or adds to them.
inline void store_sums(std::int32_t* to, const Ints (&v)[2], bool more) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  const Ints sums = add_ints(_mm512_permutex2var_epi32(v[0], even, v[1]), _mm512_permutex2var_epi32(v[0], odd, v[1]));
  _mm512_storeu_si512(to, more ? add_ints(sums, load_ints(to)) : sums);
}
