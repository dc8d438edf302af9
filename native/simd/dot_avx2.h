// The integer operations that 8-bit kernel bodies use, 8 sums wide. Included after simd/avx2.h; see simd/ints_avx512.h
// and simd/dot_avx512.h for what each does.
using Ints = __m256i;
constexpr bool exact_pairs = false;

inline Ints ints_zero() { return _mm256_setzero_si256(); }
inline Ints load_ints(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
inline void store_ints(void* p, Ints v) { _mm256_store_si256(static_cast<__m256i*>(p), v); }
inline Ints loadu_ints(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Ints set_ints(std::int32_t x) { return _mm256_set1_epi32(x); }
inline Ints add_ints(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Vec to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
inline Ints nearest(Vec a) { return _mm256_cvtps_epi32(a); }
inline Ints plus_products(Ints sum, Ints a, Ints b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
inline Ints dot4(Ints sum, Ints x, Ints w) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
}

inline std::int64_t packed_bytes(Ints v) {
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  return _mm_cvtsi128_si64(_mm_packus_epi16(words, words));
}
inline void store_bytes(std::uint8_t* p, Ints v) {
  const std::int64_t bytes = packed_bytes(v);
  __builtin_memcpy(p, &bytes, 8);
}
inline void store_bytes_n(std::uint8_t* p, Ints v, int n) {
  const std::int64_t bytes = packed_bytes(v);
  for (int i = 0; i < n; ++i) p[i] = static_cast<std::uint8_t>(bytes >> (8 * i));
}
inline void store_bytes4(std::uint8_t* p, Ints a, Ints b, Ints c, Ints d) {
  const Ints in_lanes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  const Ints by_vector = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(in_lanes, by_vector));
}

inline Ints gather4_words(const std::uint8_t* p, std::ptrdiff_t stride) {
  const Ints v = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_inserti128_si256(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 4 * stride)), 1);
}
inline void transpose4(Ints& a, Ints& b, Ints& c, Ints& d) {
  const Ints ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
  const Ints cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
  a = _mm256_unpacklo_epi64(ab_low, cd_low);
  b = _mm256_unpackhi_epi64(ab_low, cd_low);
  c = _mm256_unpacklo_epi64(ab_high, cd_high);
  d = _mm256_unpackhi_epi64(ab_high, cd_high);
}
inline void interleave4(Ints& a, Ints& b, Ints& c, Ints& d) {
  const Ints ab_low = _mm256_unpacklo_epi8(a, b), ab_high = _mm256_unpackhi_epi8(a, b);
  const Ints cd_low = _mm256_unpacklo_epi8(c, d), cd_high = _mm256_unpackhi_epi8(c, d);
  a = _mm256_unpacklo_epi16(ab_low, cd_low);
  b = _mm256_unpackhi_epi16(ab_low, cd_low);
  c = _mm256_unpacklo_epi16(ab_high, cd_high);
  d = _mm256_unpackhi_epi16(ab_high, cd_high);
}
inline void separate4(Ints& a, Ints& b, Ints& c, Ints& d) {
  const Ints by_byte = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  a = _mm256_shuffle_epi8(a, by_byte);
  b = _mm256_shuffle_epi8(b, by_byte);
  c = _mm256_shuffle_epi8(c, by_byte);
  d = _mm256_shuffle_epi8(d, by_byte);
  transpose4(a, b, c, d);
}

inline Ints bytes_by_token(Ints a, Ints b, Ints c, Ints d) {
  const Ints by_token = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return _mm256_shuffle_epi8(_mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d)), by_token);
}
inline void store_lanes(std::uint8_t* p, Ints v) {
  _mm_store_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(v));
  _mm_store_si128(reinterpret_cast<__m128i*>(p + 64), _mm256_extracti128_si256(v, 1));
}
