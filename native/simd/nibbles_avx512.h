// Groups of 16 two's complement nibbles, as floats and against unsigned bytes. Included after simd/avx512.h and
// simd/bytes_avx512.h.
constexpr int at_once = 4;
using Nibbles = __m512i;

// The first inputs of the groups whose bits are set, without a branch; `behind` zeros follow.
inline void list_groups(const unsigned char* mask, int bytes, std::uint32_t* to) {
  __m512i inputs = _mm512_setr_epi32(0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240);
  for (int i = 0; i < bytes; i += 2) {
    const unsigned bits = mask[i] | (i + 1 < bytes ? mask[i + 1] << 8 : 0);
    _mm512_storeu_si512(to, _mm512_mask_compress_epi32(cleared(), static_cast<__mmask16>(bits), inputs));
    to += __builtin_popcount(bits);
    inputs = _mm512_add_epi32(inputs, _mm512_set1_epi32(256));
  }
  for (int i = 0; i < matvec4::behind; i += 16) _mm512_storeu_si512(to + i, _mm512_setzero_si512());
}

// Values [16 part, 16 part + 16) of a group, that is all of them.
inline Vec nibbles_to_floats(const unsigned char* p, int) {
  std::int32_t low, high;
  __builtin_memcpy(&low, p, 4);
  __builtin_memcpy(&high, p + 4, 4);
  const __m512i both = _mm512_mask_set1_epi32(_mm512_set1_epi32(low), 0xff00, high);
  const __m512i shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
  const Vec table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  return _mm512_permutexvar_ps(_mm512_srlv_epi32(both, shifts), table);  // looks at the lowest four bits alone
}

inline Nibbles load_nibbles(const unsigned char* p) {  // 64 values as bytes
  const __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i split = _mm512_ternarylogic_epi32(words, _mm512_slli_epi16(words, 4), _mm512_set1_epi16(0x0f0f), 0xa8);  // (a | b) & c
  const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
  return _mm512_shuffle_epi8(table, split);
}

inline Vec dot_inputs(Nibbles w, __m512i x) { return _mm512_cvtepi32_ps(dot_vectors(_mm512_setzero_si512(), w, x)); }

inline Vec dot_neighbours(Nibbles w, const std::uint8_t* x) { return dot_inputs(w, _mm512_loadu_si512(x)); }

inline Vec dot_groups(Nibbles w, const std::uint8_t* x, const std::uint32_t* at) {
  const auto group = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + at[i])); };
  __m512i inputs = _mm512_castsi128_si512(group(0));
  inputs = _mm512_inserti32x4(inputs, group(1), 1);
  inputs = _mm512_inserti32x4(inputs, group(2), 2);
  return dot_inputs(w, _mm512_inserti32x4(inputs, group(3), 3));
}

// The scales of `groups` groups as floats, and 0 for those behind; `wide`: one stands for two.
template <bool wide>
inline void list_scales(const unsigned char* p, int groups, float* to) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  int i = 0;
  for (; i < groups; i += 16) {
    __m512i scales = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + (wide ? i : 2 * i))));
    if (wide) scales = _mm512_permutexvar_epi32(twice, scales);
    const int left = groups - i;
    _mm512_store_ps(to + i, _mm512_maskz_cvtepi32_ps(left < 16 ? first_lanes(left) : static_cast<__mmask16>(0xffff), scales));
  }
  for (; i < groups + matvec4::behind; i += 16) _mm512_store_ps(to + i, zero());
}

// The scales of four groups, each in the four lanes where its group's products are.
inline Vec spread_scales(const float* p) {
  const __m512i place = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  return _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(p)), place);
}
