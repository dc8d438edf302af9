// The integer operations beside simd/avx2.h. Included inside a target region and a namespace.
using Ints = __m256i;

inline Ints load_ints(const std::int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
// a - b * c, modulo 2^32
inline Ints subtract_product(Ints a, Ints b, std::int32_t c) {
  return _mm256_sub_epi32(a, _mm256_mullo_epi32(b, _mm256_set1_epi32(c)));
}
inline Ints no_ints() { return _mm256_setzero_si256(); }
inline Ints add_ints(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Vec to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }

// The first n lanes, rounded to nearest (ties to even), plus zero, saturated to bytes.
inline void store_bytes(std::uint8_t* p, Vec v, std::int32_t zero, int n) {
  const Vec bounded = max(set1(-70000.0f), min(v, set1(70000.0f)));  // zero is at most 2^16 away: sums stay in range
  const __m256i shifted = _mm256_add_epi32(_mm256_cvtps_epi32(bounded), _mm256_set1_epi32(zero));
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(shifted), _mm256_extracti128_si256(shifted, 1));
  const __m128i bytes = _mm_packus_epi16(words, words);
  if (n == width) return _mm_storel_epi64(reinterpret_cast<__m128i*>(p), bytes);
  const std::uint64_t all = static_cast<std::uint64_t>(_mm_cvtsi128_si64(bytes));
  for (int i = 0; i < n; ++i) p[i] = static_cast<std::uint8_t>(all >> (8 * i));
}

// 32 of them. The conversion makes a large negative number of what is too large: bounded above first.
inline void store_32_bytes(std::uint8_t* p, const Vec (&v)[4], std::int32_t zero) {
  const Vec most = set1(70000.0f);
  const auto whole = [&](Vec x) { return _mm256_cvtps_epi32(min(x, most)); };
  const __m256i shift = _mm256_set1_epi16(static_cast<short>(zero));
  const __m256i a = _mm256_adds_epi16(_mm256_packs_epi32(whole(v[0]), whole(v[1])), shift);
  const __m256i b = _mm256_adds_epi16(_mm256_packs_epi32(whole(v[2]), whole(v[3])), shift);
  const __m256i mixed = _mm256_packus_epi16(a, b);  // in units of four bytes: 0 2 4 6 1 3 5 7
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

// Exact products of bytes by way of 16 bits: 16 signed bytes widened; one token's 4 bytes, widened, in every 64 bits.
constexpr int words_per_vector = 16;
inline Ints widen(const std::uint8_t* p) { return _mm256_cvtepi8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(p))); }
inline Ints four_of_token(const std::uint8_t* p) {
  int four;
  __builtin_memcpy(&four, p, sizeof four);
  return _mm256_cvtepu8_epi16(_mm_set1_epi32(four));
}
inline Ints add_pairs(Ints sums, Ints a, Ints b) { return _mm256_add_epi32(sums, _mm256_madd_epi16(a, b)); }
// Adds neighbouring lanes of the sums of 16 rows (4 vectors of 4 rows x 2 halves) and stores 16 integers, or adds to them.
inline void store_sums(std::int32_t* to, const Ints (&v)[4], bool more) {
  for (int i = 0; i < 2; ++i, to += 8) {
    const __m256i pairs = _mm256_permute4x64_epi64(_mm256_hadd_epi32(v[2 * i], v[2 * i + 1]), _MM_SHUFFLE(3, 1, 2, 0));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), more ? add_ints(pairs, load_ints(to)) : pairs);
  }
}
