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
  if constexpr (stored == Stored::fp32) return expand(keep, reinterpret_cast<const float*>(p));
  if constexpr (stored == Stored::bf16) {
    const __m128i order = _mm_load_si128(reinterpret_cast<const __m128i*>(spread.words[bits]));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_shuffle_epi8(load_16(p), order)), 16));
  }
  if constexpr (stored == Stored::int8) {
    const __m128i order = _mm_cvtsi64_si128(static_cast<long long>(spread.bytes[bits]));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_shuffle_epi8(load_8(p), order)));
  }
}

// A weight that is there is not 0.
using Used = __m256;
inline Used used_lanes(Lanes, Vec w) { return _mm256_cmp_ps(w, _mm256_setzero_ps(), _CMP_NEQ_UQ); }
inline Vec fma_kept(Used used, Vec w, Vec x, Vec c) { return fma(w, _mm256_and_ps(used, x), c); }
inline Vec fma_used(Used used, Vec w, const float* x, Vec c) { return fma_kept(used, w, _mm256_loadu_ps(x), c); }

inline Vec gather_at(const float* x, const unsigned char* columns) { return picked8(x, columns); }
