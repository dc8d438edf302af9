// The product by way of 16-bit words, exact: for AVX2, and AVX-512 without VNNI. Included after an ints header.

// vpmaddubsw would need no widening, but its 16-bit sums saturate.
template <int tokens>
void block_of_words(const dense::Product& p, const std::uint8_t* x, const std::uint8_t* weight, std::int32_t* sums) {
  constexpr int vectors = dense::line_bytes / words_per_vector;
  Ints acc[tokens][vectors];
#pragma GCC unroll 16
  for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) acc[t][v] = no_ints();
  for (int l = 0; l < p.lines; ++l, weight += dense::line_bytes, x += dense::token_bytes) {
    Ints four[tokens];
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t) four[t] = four_of_token(x + t * p.stride);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const Ints w = widen(weight + v * words_per_vector);
#pragma GCC unroll 16
      for (int t = 0; t < tokens; ++t) acc[t][v] = add_pairs(acc[t][v], w, four[t]);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < tokens; ++t) store_sums(sums + t * p.sums_stride, acc[t], p.add);
}

template <int tokens>
void multiply_words(const dense::Product& p) noexcept {
  for (int b = 0; b < p.blocks; ++b) {
    const std::uint8_t* weight = p.weight + b * p.block_bytes;
    std::int32_t* sums = p.sums + b * dense::block_rows;
    int t = 0;
    for (; t + tokens <= p.tokens; t += tokens)
      block_of_words<tokens>(p, p.x + t * p.stride, weight, sums + t * p.sums_stride);
    for (; t < p.tokens; ++t) block_of_words<1>(p, p.x + t * p.stride, weight, sums + t * p.sums_stride);
  }
}
