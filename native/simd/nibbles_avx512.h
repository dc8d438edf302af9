// Groups of 16 two's complement nibbles, as floats and against unsigned bytes. Included after simd/avx512.h and
// simd/bytes_avx512.h.
constexpr int at_once = 4;
using Nibbles = __m512i;

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

inline Vec dot_groups(Nibbles w, const std::uint8_t* x, const std::uint16_t* at) {
  const auto group = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + std::size_t{16} * at[i])); };
  __m512i inputs = _mm512_castsi128_si512(group(0));
  inputs = _mm512_inserti32x4(inputs, group(1), 1);
  inputs = _mm512_inserti32x4(inputs, group(2), 2);
  return dot_inputs(w, _mm512_inserti32x4(inputs, group(3), 3));
}

// The scales of groups i to i + 3, each in the four lanes where its group's products are; 0 for those not `left`.
template <bool wide>
inline Vec spread_scales(const unsigned char* p, int i, int left) {
  long long four;
  __builtin_memcpy(&four, p + (wide ? i : 2 * i), 8);
  const int known = wide ? (left + 1) / 2 : left;
  if (known < 4) four &= (1ll << (16 * known)) - 1;
  // Byte shuffle: 16 bits from the place of the lane's scale, and two zero bytes (0x80).
  const auto from = [](int place) { return static_cast<int>(0x80800000u | (2u * place + 1) << 8 | 2u * place); };
  const int a = from(0), b = from(wide ? 0 : 1), c = from(wide ? 1 : 2), d = from(wide ? 1 : 3);
  const __m512i place = _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
  return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(_mm512_set1_epi64(four), place));
}
