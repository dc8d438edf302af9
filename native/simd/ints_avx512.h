// Integer vectors of 16 lanes: moving, transposing and rounding. Included by simd/dot_*.h.
using Ints = __m512i;

inline Ints ints_zero() { return _mm512_setzero_si512(); }
inline Ints load_ints(const void* p) { return _mm512_load_si512(p); }
inline void store_ints(void* p, Ints v) { _mm512_store_si512(p, v); }
inline Ints loadu_ints(const void* p) { return _mm512_loadu_si512(p); }
inline Ints set_ints(std::int32_t x) { return _mm512_set1_epi32(x); }
inline Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Vec to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
inline Ints nearest(Vec a) { return _mm512_cvtps_epi32(a); }  // ties to even; NaN becomes the least integer


// The lanes as bytes, saturated to 0..255.
inline void store_bytes(std::uint8_t* p, Ints v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(_mm512_max_epi32(v, _mm512_setzero_si512())));
}
inline void store_bytes_n(std::uint8_t* p, Ints v, int n) {
  const __m128i bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(v, _mm512_setzero_si512()));
  _mm_mask_storeu_epi8(p, first_lanes(n), bytes);
}
// Four vectors, one after the other.
inline void store_bytes4(std::uint8_t* p, Ints a, Ints b, Ints c, Ints d) {
  const Ints in_lanes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
  const Ints by_vector = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi32(by_vector, in_lanes));
}

// Lane 4b + i is the i-th word of 16 bytes at p + 4 b stride: four neighbours from every fourth row.
inline Ints gather4_words(const std::uint8_t* p, std::ptrdiff_t stride) {
  Ints v = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  v = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 4 * stride)), 1);
  v = _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * stride)), 2);
  return _mm512_inserti32x4(v, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 12 * stride)), 3);
}

// Transposes the 4x4 block of words in every 128-bit lane.
inline void transpose4(Ints& a, Ints& b, Ints& c, Ints& d) {
  const Ints ab_low = _mm512_unpacklo_epi32(a, b), ab_high = _mm512_unpackhi_epi32(a, b);
  const Ints cd_low = _mm512_unpacklo_epi32(c, d), cd_high = _mm512_unpackhi_epi32(c, d);
  a = _mm512_unpacklo_epi64(ab_low, cd_low);
  b = _mm512_unpackhi_epi64(ab_low, cd_low);
  c = _mm512_unpacklo_epi64(ab_high, cd_high);
  d = _mm512_unpackhi_epi64(ab_high, cd_high);
}

// Four rows of bytes become four vectors of words that hold one byte of each row: in 128-bit lanes, words 0..3 of the
// lane go to the first vector, 4..7 to the second and so on.
inline void interleave4(Ints& a, Ints& b, Ints& c, Ints& d) {
  const Ints ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
  const Ints cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
  a = _mm512_unpacklo_epi16(ab_low, cd_low);
  b = _mm512_unpackhi_epi16(ab_low, cd_low);
  c = _mm512_unpacklo_epi16(ab_high, cd_high);
  d = _mm512_unpackhi_epi16(ab_high, cd_high);
}

// The inverse of interleave4.
inline void separate4(Ints& a, Ints& b, Ints& c, Ints& d) {
  const Ints by_byte = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  a = _mm512_shuffle_epi8(a, by_byte);
  b = _mm512_shuffle_epi8(b, by_byte);
  c = _mm512_shuffle_epi8(c, by_byte);
  d = _mm512_shuffle_epi8(d, by_byte);
  transpose4(a, b, c, d);
}

// Lanes of four rows, saturated to bytes 0..255: word i of a 128-bit lane holds its i-th token's byte of every row.
inline Ints bytes_by_token(Ints a, Ints b, Ints c, Ints d) {
  const Ints by_token = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return _mm512_shuffle_epi8(_mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d)), by_token);
}
// The 128-bit lanes, 64 bytes from one to the next.
inline void store_lanes(std::uint8_t* p, Ints v) {
  _mm_store_si128(reinterpret_cast<__m128i*>(p), _mm512_castsi512_si128(v));
  _mm_store_si128(reinterpret_cast<__m128i*>(p + 64), _mm512_extracti32x4_epi32(v, 1));
  _mm_store_si128(reinterpret_cast<__m128i*>(p + 128), _mm512_extracti32x4_epi32(v, 2));
  _mm_store_si128(reinterpret_cast<__m128i*>(p + 192), _mm512_extracti32x4_epi32(v, 3));
}
