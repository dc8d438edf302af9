// Expansion of floats with the simd operations of the instruction set.

// Bytes between what is expanded and what is fetched: the few lines of a call end before the hardware sees a stream.
constexpr int ahead = 1536;

inline const std::uint8_t* expand_floats(const std::uint8_t* masks, const std::uint8_t* values, int lines,
                                         std::uint8_t* to) noexcept {
  for (int l = 0; l < lines; ++l, masks += 2, to += 64) {
    __builtin_prefetch(values + ahead, 0, in_passing);
    for (int i = 0; i < 16; i += width) {
      const unsigned bits = (masks[0] | masks[1] << 8) >> i & ((1u << width) - 1u);
      store(reinterpret_cast<float*>(to) + i, expand(lanes(bits), reinterpret_cast<const float*>(values)));
      values += 4 * __builtin_popcount(bits);
    }
  }
  return values;
}
