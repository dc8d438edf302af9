// Words that hold the bytes of four channels, 8 at a time; see simd/words_avx512.h.
inline Ints load_words_n(const void* p, int n) { return _mm256_maskload_epi32(static_cast<const int*>(p), first_lanes(n)); }
inline void store_words_n(void* p, Ints v, int n) { _mm256_maskstore_epi32(static_cast<int*>(p), first_lanes(n), v); }
inline Ints load_even_words(const std::uint8_t* p) {
  const __m256 low = _mm256_castsi256_ps(loadu_ints(p)), high = _mm256_castsi256_ps(loadu_ints(p + 32));
  return _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(low, high, 0x88)), 0xd8);
}
inline Ints byte_lane(Ints v, int i) { return _mm256_and_si256(_mm256_srli_epi32(v, 8 * i), _mm256_set1_epi32(255)); }
inline Ints as_words(Vec v) { return _mm256_castps_si256(v); }
inline Ints repeat4(const std::uint32_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Ints bytes_in_turn(Ints a, Ints b, Ints c, Ints d) {
  return _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}
inline Ints max_bytes(Ints a, Ints b) { return _mm256_max_epu8(a, b); }
