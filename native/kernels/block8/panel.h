// From 8-bit rows to the panels of cells and strips. Included after a simd/dot header.

inline std::int32_t word_at(const std::uint8_t* p, int bytes) {  // the first `bytes` of a word, zero beyond
  std::int32_t word = 0;
  __builtin_memcpy(&word, p, static_cast<std::size_t>(bytes));
  return word;
}

// panel[q][t], a word of inputs 4q .. 4q + 3 of token t.
inline void load_words(const std::uint8_t* x, std::ptrdiff_t stride, int valid, int features, int tokens,
                       std::uint8_t* panel) noexcept {
  const std::size_t row = static_cast<std::size_t>(tokens) * 4;
  for (int t = 0; t < tokens; t += width) {
    const std::uint8_t* const from = x + t * stride;
    const int here = valid - t, whole = here >= width ? features / 16 * 4 : 0;
    std::uint8_t* const to = panel + static_cast<std::size_t>(t) * 4;
    for (int q = 0; q < whole; q += 4) {
      Ints w[4];
      for (int i = 0; i < 4; ++i) w[i] = gather4_words(from + 4 * q + i * stride, stride);
      transpose4(w[0], w[1], w[2], w[3]);
      for (int i = 0; i < 4; ++i) store_ints(to + (q + i) * row, w[i]);
    }
    for (int q = whole; q < (features + 3) / 4; ++q)
      for (int i = 0; i < width; ++i) {
        const std::int32_t word = i < here ? word_at(from + i * stride + 4 * q, features - 4 * q < 4 ? features - 4 * q : 4) : 0;
        __builtin_memcpy(to + q * row + i * 4, &word, 4);
      }
  }
}

// panel[k], the bytes of input k of all tokens, in the order that interleave4 turns back into words of tokens in order.
// The four rows of bytes of four inputs take the place that their words took.
inline void load_bytes(const std::uint8_t* x, std::ptrdiff_t stride, int valid, int features, int tokens,
                       std::uint8_t* panel) noexcept {
  load_words(x, stride, valid, features, tokens, panel);
  for (int q = 0; q < (features + 3) / 4; ++q) {
    std::uint8_t* const at = panel + static_cast<std::size_t>(q) * 4 * tokens;
    constexpr int bytes = 4 * width;
    Ints w[4];
    for (int i = 0; i < 4; ++i) w[i] = load_ints(at + i * bytes);
    separate4(w[0], w[1], w[2], w[3]);
    for (int i = 0; i < 4; ++i) store_ints(at + i * bytes, w[i]);
  }
}
