// Words that hold the bytes of four channels. Included after a simd/dot_*.h of 16 lanes.
inline Ints load_words_n(const void* p, int n) { return _mm512_maskz_loadu_epi32(first_lanes(n), p); }
inline void store_words_n(void* p, Ints v, int n) { _mm512_mask_storeu_epi32(p, first_lanes(n), v); }
inline Ints load_even_words(const std::uint8_t* p) {  // every other word of 32
  const Ints even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_permutex2var_epi32(loadu_ints(p), even, loadu_ints(p + 64));
}
inline Ints byte_lane(Ints v, int i) {  // byte i of every word
  return _mm512_and_si512(_mm512_srli_epi32(v, static_cast<unsigned>(8 * i)), _mm512_set1_epi32(255));
}
inline Ints as_words(Vec v) { return _mm512_castps_si512(v); }
inline Ints repeat4(const std::uint32_t* p) {  // four words, again in every 128-bit lane
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Ints bytes_in_turn(Ints a, Ints b, Ints c, Ints d) {  // saturated; word i of a 128-bit lane: the lane of vector i
  return _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
}
inline Ints max_bytes(Ints a, Ints b) { return _mm512_max_epu8(a, b); }
