// Weights whose columns are interleaved for the byte and word expansions of VBMI2. Included after simd/stored_avx512.h.
//
// A block of 16 g columns (g = 2 for bf16, 4 for int8) is stored so that place g j + b is column 16 b + j. Expanded at
// once, 32-bit lane j holds columns j, 16 + j, ...: a shift, and no shuffle, brings each to the lanes of its inputs.
constexpr bool interleaved = true;

// The signed byte at the top of every 32-bit lane, as a float. A function and not a lambda:
// one inside a template is instantiated behind the target region, where vectors of 64 bytes have no registers to return in.
inline Vec top_byte(__m512i v) { return _mm512_cvtepi32_ps(_mm512_srai_epi32(v, 24)); }

// `of` says which bits of the mask are those of these lanes.
template <bool finite, int tokens>
inline void add_lanes(Vec w, std::uint64_t mask, std::uint64_t of, const float* const (&x)[tokens], std::ptrdiff_t column,
                      Vec (&partial)[tokens]) {
  if constexpr (finite) {
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) partial[t] = fma_from(w, x[t] + column, partial[t]);
  } else {
    const Lanes keep = lanes(static_cast<unsigned>(_pext_u64(mask, of)));
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) partial[t] = fma_lanes(keep, w, x[t] + column, partial[t]);
  }
}

template <Stored stored, int tokens, bool finite>
inline const unsigned char* add_interleaved(const unsigned char* at, const float* const (&x)[tokens], std::ptrdiff_t column,
                                            Vec (&partial)[tokens]) {
  std::uint64_t mask;
  __builtin_memcpy(&mask, at, 8);
  at += 8;
  if constexpr (stored == Stored::bf16) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const auto bits = static_cast<std::uint32_t>(mask >> (32 * half));
      const __m512i pair = _mm512_mask_expand_epi16(cleared(), bits, on_its_own(_mm512_loadu_si512(at)));
      at += 2 * static_cast<std::size_t>(__builtin_popcountll(bits));
      const Vec low = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
      const Vec high = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
      add_lanes<finite, tokens>(low, bits, 0x55555555u, x, column + 32 * half, partial);
      add_lanes<finite, tokens>(high, bits, 0xaaaaaaaau, x, column + 32 * half + 16, partial);
    }
  } else {
    const __m512i four = _mm512_mask_expand_epi8(cleared(), mask, on_its_own(_mm512_loadu_si512(at)));
    at += __builtin_popcountll(mask);
    constexpr std::uint64_t first = 0x1111111111111111ull;
    add_lanes<finite, tokens>(top_byte(_mm512_slli_epi32(four, 24)), mask, first, x, column, partial);
    add_lanes<finite, tokens>(top_byte(_mm512_slli_epi32(four, 16)), mask, first << 1, x, column + 16, partial);
    add_lanes<finite, tokens>(top_byte(_mm512_slli_epi32(four, 8)), mask, first << 2, x, column + 32, partial);
    add_lanes<finite, tokens>(top_byte(four), mask, first << 3, x, column + 48, partial);
  }
  return at;
}
