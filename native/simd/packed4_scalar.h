// Lines of 128 4-bit values; see simd/packed4_avx512.h.

using Worth = float;
inline Worth worth(float x) { return x; }

inline Vec worth_of(Worth by, const unsigned char* line, int place, int part) {
  return each([&](int i) {
    std::uint32_t word;
    __builtin_memcpy(&word, line + 4 * (width * part + i), 4);
    const int code = static_cast<int>(word >> (4 * place) & 15);
    return by * static_cast<float>(code < 8 ? code : code - 16);
  });
}

inline Vec words_to_floats(const unsigned char* p) {
  return each([&](int i) {
    std::uint16_t word;
    __builtin_memcpy(&word, p + 2 * i, 2);
    return static_cast<float>(word);
  });
}
