// Groups of 16 two's complement nibbles, as floats and against unsigned bytes; see simd/nibbles_avx512.h. Included after
// simd/stored_avx2.h.
constexpr int at_once = 1;
using Nibbles = __m256i;  // 16 words

inline void list_groups(const unsigned char* mask, int bytes, std::uint32_t* to) {
  for (int i = 0; i < bytes; ++i) {
    const __m128i places = _mm_cvtsi64_si128(static_cast<long long>(matvec4::places.of[mask[i]]));
    const __m256i inputs = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtepu8_epi32(places), _mm256_set1_epi32(8 * i)), 4);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), inputs);
    to += __builtin_popcount(mask[i]);
  }
  for (int i = 0; i < matvec4::behind; ++i) to[i] = 0;
}

inline Vec nibbles_to_floats(const unsigned char* p, int part) {
  std::int32_t eight;
  __builtin_memcpy(&eight, p + 4 * part, 4);
  const __m256i high = _mm256_sllv_epi32(_mm256_set1_epi32(eight), _mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0));
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(high, 28));
}

inline Nibbles load_nibbles(const unsigned char* p) {
  const __m128i words = _mm_cvtepu8_epi16(load_8(p));
  const __m128i split = _mm_and_si128(_mm_or_si128(words, _mm_slli_epi16(words, 4)), _mm_set1_epi16(0x0f0f));
  const __m128i table = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  return _mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, split));
}

inline Vec dot_neighbours(Nibbles w, const std::uint8_t* x) {
  return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_cvtepu8_epi16(load_16(x)), w));
}
inline Vec dot_groups(Nibbles w, const std::uint8_t* x, const std::uint32_t* at) {
  return dot_neighbours(w, x + *at);
}

template <bool wide>
inline void list_scales(const unsigned char* p, int groups, float* to) {
  for (int i = 0; i < groups; ++i) {
    std::uint16_t scale;
    __builtin_memcpy(&scale, p + 2 * (wide ? i / 2 : i), 2);
    to[i] = static_cast<float>(scale);
  }
  for (int i = groups; i < groups + matvec4::behind; ++i) to[i] = 0.0f;
}
inline Vec spread_scales(const float* p) { return set1(*p); }
