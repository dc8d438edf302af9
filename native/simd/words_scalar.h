// Words that hold the bytes of four channels, 4 at a time; see simd/words_avx512.h.
inline Ints load_words_n(const void* p, int n) {
  Ints v = ints_zero();
  __builtin_memcpy(&v, p, 4 * static_cast<std::size_t>(n));
  return v;
}
inline void store_words_n(void* p, Ints v, int n) { __builtin_memcpy(p, &v, 4 * static_cast<std::size_t>(n)); }
inline Ints load_even_words(const std::uint8_t* p) {
  std::int32_t words[2 * width];
  __builtin_memcpy(words, p, sizeof words);
  return each_int([&](int i) { return words[2 * i]; });
}
inline Ints byte_lane(Ints v, int i) {
  return each_int([&](int lane) { return byte_of(v.lane[lane], i); });
}
inline Ints as_words(Vec v) {
  Ints words;
  __builtin_memcpy(&words, &v, sizeof words);
  return words;
}
inline Ints repeat4(const std::uint32_t* p) { return loadu_ints(p); }
inline Ints bytes_in_turn(Ints a, Ints b, Ints c, Ints d) {
  transpose4(a, b, c, d);
  return bytes_by_token(a, b, c, d);
}
inline Ints max_bytes(Ints a, Ints b) {
  return each_int([&](int lane) {
    std::uint32_t word = 0;
    for (int i = 0; i < 4; ++i) {
      const int x = byte_of(a.lane[lane], i), y = byte_of(b.lane[lane], i);
      word |= static_cast<std::uint32_t>(x > y ? x : y) << (8 * i);
    }
    return static_cast<std::int32_t>(word);
  });
}
