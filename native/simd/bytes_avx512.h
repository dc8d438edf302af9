// 64 signed bytes of weights times 64 unsigned bytes of inputs, exact, on AVX-512 with or without VNNI and VBMI2.
// Included after simd/avx512.h; RAREFY_DOT_BYTES and RAREFY_EXPAND_BYTES say which instructions the region has.
using Bytes = __m512i;
using Sums = __m512i;

inline Sums no_sums() { return _mm512_setzero_si512(); }
inline std::int64_t sum_of(Sums s) {  // 16 sums fit 32 bits each, their total may not
  const __m512i halves = _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(s)), _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(s, 1)));
  return _mm512_reduce_add_epi64(halves);
}
inline Bytes load_bytes(const unsigned char* p) { return _mm512_loadu_si512(p); }

#if RAREFY_EXPAND_BYTES
inline Bytes expand_bytes(std::uint64_t mask, const unsigned char* p, int, int, int) {
  return _mm512_mask_expand_epi8(cleared(), mask, on_its_own(_mm512_loadu_si512(p)));
}
#endif

// Four units of 16 columns in the four lanes; each takes its values from p + where the unit's begin. In a lane, place i
// comes from byte "how many bits of the mask lie below i", summed up by shifts within each half of a lane.
inline Bytes expand_lanes(std::uint64_t mask, const unsigned char* p, int one, int two, int three) {
  const auto lane = [](const unsigned char* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); };
  __m512i values = _mm512_castsi128_si512(lane(p));
  values = _mm512_inserti32x4(values, lane(p + one), 1);
  values = _mm512_inserti32x4(values, lane(p + two), 2);
  values = _mm512_inserti32x4(values, lane(p + three), 3);
  const __m512i base = _mm512_maskz_set1_epi8(0x0001000100010001ull, -1);  // so that the first kept one is number 0
  __m512i order = _mm512_mask_add_epi8(base, mask, base, _mm512_set1_epi8(1));
  order = _mm512_add_epi8(order, _mm512_slli_epi64(order, 8));
  order = _mm512_add_epi8(order, _mm512_slli_epi64(order, 16));
  order = _mm512_add_epi8(order, _mm512_slli_epi64(order, 32));
  const __m512i low_total = _mm512_broadcast_i32x4(_mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, 7, 7, 7, 7, 7, 7, 7, 7));
  order = _mm512_add_epi8(order, _mm512_shuffle_epi8(order, low_total));
  return _mm512_maskz_shuffle_epi8(mask, values, order);
}

#if !RAREFY_EXPAND_BYTES
inline Bytes expand_bytes(std::uint64_t mask, const unsigned char* p, int one, int two, int three) {
  return expand_lanes(mask, p, one, two, three);
}
#endif

#if RAREFY_DOT_BYTES
inline Sums dot_vectors(Sums s, Bytes w, __m512i x) { return _mm512_dpbusd_epi32(s, x, w); }
#else
inline Sums dot_vectors(Sums s, Bytes w, __m512i x) {  // in 16-bit products: the 8-bit ones saturate
  const __m512i even = _mm512_madd_epi16(_mm512_and_si512(x, _mm512_set1_epi16(255)), _mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8));
  const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(x, 8), _mm512_srai_epi16(w, 8));
  return _mm512_add_epi32(s, _mm512_add_epi32(even, odd));
}
#endif
inline Sums dot_bytes(Sums s, Bytes w, const std::uint8_t* x) { return dot_vectors(s, w, _mm512_loadu_si512(x)); }
