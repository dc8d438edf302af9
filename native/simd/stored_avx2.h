// Weights stored as floats, bfloat16 or bytes, as vectors of floats; see simd/stored_avx512.h. Needs simd/spread.h.

inline __m128i load_8(const unsigned char* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); }
inline __m128i load_16(const unsigned char* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

template <Stored stored>
inline Vec load_stored(const unsigned char* p) {
  if constexpr (stored == Stored::fp32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  if constexpr (stored == Stored::bf16) return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16(p)), 16));
  if constexpr (stored == Stored::int8) return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_8(p)));
}

template <Stored stored>
inline Vec expand_stored(Lanes keep, unsigned bits, const unsigned char* p) {
  const __m128i order = _mm_cvtsi64_si128(static_cast<long long>(spread.order[bits]));
  if constexpr (stored == Stored::fp32) return expand(keep, reinterpret_cast<const float*>(p));
  if constexpr (stored == Stored::bf16) {  // words: twice the place, and its neighbour; 0x80 stays negative
    const __m128i low = _mm_add_epi8(order, order);
    const __m128i twice = _mm_or_si128(_mm_unpacklo_epi8(low, _mm_add_epi8(low, _mm_set1_epi8(1))),
                                       _mm_and_si128(_mm_unpacklo_epi8(order, order), _mm_set1_epi8(static_cast<char>(0x80))));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_shuffle_epi8(load_16(p), twice)), 16));
  }
  if constexpr (stored == Stored::int8) return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_shuffle_epi8(load_8(p), order)));
}

inline Vec gather_at(const float* x, const unsigned char* columns) {
  return _mm256_i32gather_ps(x, _mm256_cvtepu16_epi32(load_16(columns)), 4);
}
