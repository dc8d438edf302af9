// The product of floats: a token's value broadcast, times a line of 16 rows. Included after a simd header.

constexpr int vectors_of_line = dense::block_rows / width;

// `tokens` x `blocks` sums stay in registers. Every sum adds up in the order of the inputs, whatever the tile.
template <int tokens, int blocks>
void fmas(const dense::Product& p, const std::uint8_t* x, int block, std::int32_t* to) {
  constexpr int vectors = blocks * vectors_of_line;
  const std::uint8_t* weight = p.weight + block * p.block_bytes;
  float* const sums = reinterpret_cast<float*>(to) + block * dense::block_rows;
  Vec acc[tokens][vectors];
#pragma GCC unroll 16
  for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) acc[t][v] = p.add ? load(sums + t * p.sums_stride + v * width) : zero();
  for (int l = 0; l < p.lines; ++l, weight += dense::line_bytes, x += dense::token_bytes) {
    Vec w[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v)
      w[v] = load(reinterpret_cast<const float*>(weight + v / vectors_of_line * p.block_bytes) + v % vectors_of_line * width);
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t) {
      const Vec token = set1(*reinterpret_cast<const float*>(x + t * p.stride));
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) acc[t][v] = fma(token, w[v], acc[t][v]);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; ++v) store(sums + t * p.sums_stride + v * width, acc[t][v]);
}

// Exactly `tokens` tokens, all blocks, as many side by side as the registers for sums allow.
template <int tokens, int registers>
void fmas_of(const dense::Product& p, const std::uint8_t* x, std::int32_t* to) {
  constexpr int fitting = registers / (tokens * vectors_of_line), wide = fitting >= 4 ? 4 : fitting >= 2 ? 2 : 1;
  int b = 0;
  for (; b + wide <= p.blocks; b += wide) fmas<tokens, wide>(p, x, b, to);
  if constexpr (wide == 4)
    for (; b + 2 <= p.blocks; b += 2) fmas<tokens, 2>(p, x, b, to);
  for (; b < p.blocks; ++b) fmas<tokens, 1>(p, x, b, to);
}

template <int registers, int... tokens>
void multiply_shares(const dense::Product& p) {
  constexpr int most = sizeof...(tokens);
  using Of = void (*)(const dense::Product&, const std::uint8_t*, std::int32_t*);
  static constexpr Of of[most] = {fmas_of<tokens, registers>...};
  for (int t = 0, passes = (p.tokens + most - 1) / most; passes > 0; --passes) {  // in about equal shares
    const int share = (p.tokens - t + passes - 1) / passes;
    of[share - 1](p, p.x + t * p.stride, p.sums + t * p.sums_stride);
    t += share;
  }
}
