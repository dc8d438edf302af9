// Weights stored as floats, bfloat16 or bytes at any address, as vectors of floats. Included after simd/avx512.h.

template <Stored stored>
inline Vec load_stored(const unsigned char* p) {
  if constexpr (stored == Stored::fp32) return _mm512_loadu_ps(p);
  if constexpr (stored == Stored::bf16)
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  if constexpr (stored == Stored::int8)
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

// Lanes named by `keep` take consecutive values from p, the others are 0.
template <Stored stored>
inline Vec expand_stored(Lanes keep, unsigned, const unsigned char* p) {
  if constexpr (stored == Stored::fp32) return expand(keep, reinterpret_cast<const float*>(p));
  if constexpr (stored == Stored::bf16) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_mask_expand_epi32(cleared(), keep, wide), 16));
  }
  if constexpr (stored == Stored::int8) {
    const __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm512_cvtepi32_ps(_mm512_mask_expand_epi32(cleared(), keep, wide));
  }
}

// Products of the lanes that have a weight: the inputs of the others must not arrive, NaN least of all.
using Used = Lanes;
inline Used used_lanes(Lanes keep, Vec) { return keep; }
inline Vec fma_used(Used used, Vec w, const float* x, Vec c) { return fma_lanes(used, w, x, c); }
inline Vec fma_kept(Used used, Vec w, Vec x, Vec c) { return _mm512_mask3_fmadd_ps(w, x, c, used); }

inline Vec gather_at(const float* x, const unsigned char* columns) { return picked16(x, columns); }
