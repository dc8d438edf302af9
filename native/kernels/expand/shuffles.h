// Expansion by tables of byte shuffles, 8 entries a look-up: for CPUs without VBMI2. Included inside a target region.

// order[m][i]: for entry i of 8, which of the packed entries it is, under the mask m; 0x80 (a shuffle's zero): none.
struct Orders {
  std::uint8_t bytes[256][8], halves[256][16];
};
constexpr Orders make_orders() {
  Orders out{};
  for (int m = 0; m < 256; ++m)
    for (int i = 0, next = 0; i < 8; ++i) {
      const bool there = m >> i & 1;
      out.bytes[m][i] = static_cast<std::uint8_t>(there ? next : 0x80);
      out.halves[m][2 * i] = static_cast<std::uint8_t>(there ? 2 * next : 0x80);
      out.halves[m][2 * i + 1] = static_cast<std::uint8_t>(there ? 2 * next + 1 : 0x80);
      next += there;
    }
  return out;
}
alignas(64) constexpr Orders orders = make_orders();

inline __m128i eight_bytes(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
inline __m128i two_times_eight(const void* low, const void* high) {
  return _mm_castpd_si128(_mm_loadh_pd(_mm_castsi128_pd(eight_bytes(low)), static_cast<const double*>(high)));
}

inline const std::uint8_t* expand_bytes(const std::uint8_t* masks, const std::uint8_t* values, int lines,
                                        std::uint8_t* to) noexcept {
  const __m128i second_half = _mm_set_epi64x(0x0808080808080808, 0);
  for (const std::uint8_t* end = masks + 8 * static_cast<std::ptrdiff_t>(lines); masks != end; masks += 2, to += 16) {
    const std::uint8_t* next = values + __builtin_popcount(masks[0]);
    const __m128i packed = two_times_eight(values, next);
    const __m128i order = two_times_eight(orders.bytes[masks[0]], orders.bytes[masks[1]]);
    _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(packed, _mm_add_epi8(order, second_half)));
    values = next + __builtin_popcount(masks[1]);
  }
  return values;
}

inline __m128i eight_halves(unsigned mask, const std::uint8_t* values) {
  return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)),
                          _mm_load_si128(reinterpret_cast<const __m128i*>(orders.halves[mask])));
}

inline const std::uint8_t* expand_halves(const std::uint8_t* masks, const std::uint8_t* values, int lines,
                                         std::uint8_t* to) noexcept {
  for (const std::uint8_t* end = masks + 4 * static_cast<std::ptrdiff_t>(lines); masks != end; ++masks, to += 16) {
    _mm_store_si128(reinterpret_cast<__m128i*>(to), eight_halves(*masks, values));
    values += 2 * __builtin_popcount(*masks);
  }
  return values;
}

inline const std::uint8_t* expand_widened(const std::uint8_t* masks, const std::uint8_t* values, int lines,
                                          std::uint8_t* to) noexcept {
  for (const std::uint8_t* end = masks + 2 * static_cast<std::ptrdiff_t>(lines); masks != end; ++masks, to += 32) {
    const __m256i wide = _mm256_slli_epi32(_mm256_cvtepu16_epi32(eight_halves(*masks, values)), 16);
    _mm256_store_si256(reinterpret_cast<__m256i*>(to), wide);
    values += 2 * __builtin_popcount(*masks);
  }
  return values;
}
