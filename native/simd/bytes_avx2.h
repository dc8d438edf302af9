// 64 signed bytes of weights times 64 unsigned bytes of inputs, exact. Included after simd/avx2.h and simd/stored_avx2.h.
struct Bytes {
  __m128i unit[4];
};
using Sums = __m256i;

inline Sums no_sums() { return _mm256_setzero_si256(); }
inline std::int64_t sum_of(Sums s) {
  const __m256i halves = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(s)), _mm256_cvtepi32_epi64(_mm256_extracti128_si256(s, 1)));
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  return _mm_cvtsi128_si64(two) + _mm_extract_epi64(two, 1);
}
inline Bytes load_bytes(const unsigned char* p) { return {{load_16(p), load_16(p + 16), load_16(p + 32), load_16(p + 48)}}; }

inline __m128i expand_unit(unsigned bits, const unsigned char* p) {
  const unsigned low = bits & 255u, high = bits >> 8 & 255u;
  const __m128i a = _mm_shuffle_epi8(load_8(p), _mm_cvtsi64_si128(static_cast<long long>(spread.bytes[low])));
  const __m128i b = _mm_shuffle_epi8(load_8(p + __builtin_popcount(low)), _mm_cvtsi64_si128(static_cast<long long>(spread.bytes[high])));
  return _mm_unpacklo_epi64(a, b);
}
inline Bytes expand_bytes(std::uint64_t mask, const unsigned char* p, int one, int two, int three) {
  const auto bits = [&](int unit) { return static_cast<unsigned>(mask >> (16 * unit)) & 0xffffu; };
  return {{expand_unit(bits(0), p), expand_unit(bits(1), p + one), expand_unit(bits(2), p + two), expand_unit(bits(3), p + three)}};
}

inline Sums dot_bytes(Sums s, const Bytes& w, const std::uint8_t* x) {  // in 16-bit products: the 8-bit ones saturate
#pragma GCC unroll 4
  for (int unit = 0; unit < 4; ++unit)
    s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_cvtepu8_epi16(load_16(x + 16 * unit)), _mm256_cvtepi8_epi16(w.unit[unit])));
  return s;
}
