// The product with VNNI: a token's 4 bytes broadcast, times a line of 16 rows. Included inside a target region.

// `tokens` x `blocks` sums stay in registers; `phases` lines at a time have sums of their own, so that with few tokens
// enough independent sums are under way to hide the instruction's latency.
template <int tokens, int blocks, int phases>
void dots(const dense::Product& p, const std::uint8_t* x, const std::uint8_t* weight, std::int32_t* sums) {
  __m512i acc[phases][tokens][blocks];
#pragma GCC unroll 4
  for (int f = 0; f < phases; ++f)
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
      for (int b = 0; b < blocks; ++b)
        acc[f][t][b] = f == 0 && p.add ? _mm512_load_si512(sums + t * p.sums_stride + b * dense::block_rows)
                                       : _mm512_setzero_si512();
  const auto line = [&](int l, int f) __attribute__((always_inline)) {
    __m512i w[blocks];
#pragma GCC unroll 4
    for (int b = 0; b < blocks; ++b)
      w[b] = _mm512_load_si512(weight + b * p.block_bytes + static_cast<std::ptrdiff_t>(l) * dense::line_bytes);
#pragma GCC unroll 16
    for (int t = 0; t < tokens; ++t) {
      int four;
      __builtin_memcpy(&four, x + t * p.stride + l * dense::token_bytes, sizeof four);
      const __m512i token = _mm512_set1_epi32(four);
#pragma GCC unroll 4
      for (int b = 0; b < blocks; ++b) acc[f][t][b] = _mm512_dpbusd_epi32(acc[f][t][b], token, w[b]);
    }
  };
  int l = 0;
  for (; l + phases <= p.lines; l += phases)
#pragma GCC unroll 4
    for (int f = 0; f < phases; ++f) line(l + f, f);
  for (; l < p.lines; ++l) line(l, 0);
#pragma GCC unroll 16
  for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
    for (int b = 0; b < blocks; ++b) {
      __m512i total = acc[0][t][b];
#pragma GCC unroll 4
      for (int f = 1; f < phases; ++f) total = _mm512_add_epi32(total, acc[f][t][b]);
      _mm512_store_si512(sums + t * p.sums_stride + b * dense::block_rows, total);
    }
}

// Exactly `tokens` tokens, all blocks: four blocks side by side where that fits the registers, else two, then one.
template <int tokens>
void dots_of(const dense::Product& p, const std::uint8_t* x, std::int32_t* sums) {
  constexpr int wide = tokens <= 6 ? 4 : 2;
  constexpr int phases = tokens * wide <= 4 ? 4 : tokens * wide <= 8 ? 2 : 1;
  int b = 0;
  for (; b + wide <= p.blocks; b += wide)
    dots<tokens, wide, phases>(p, x, p.weight + b * p.block_bytes, sums + b * dense::block_rows);
  if (wide > 2 && b + 2 <= p.blocks) {
    dots<tokens, 2, 1>(p, x, p.weight + b * p.block_bytes, sums + b * dense::block_rows);
    b += 2;
  }
  if (b < p.blocks) dots<tokens, 1, 1>(p, x, p.weight + b * p.block_bytes, sums + b * dense::block_rows);
}

constexpr int most_dots = 12;  // tokens that share a pass: 12 x 2 sums, 2 lines and a token in 32 registers

inline void multiply_dots(const dense::Product& p) noexcept {
  using Of = void (*)(const dense::Product&, const std::uint8_t*, std::int32_t*);
  static constexpr Of of[most_dots] = {dots_of<1>, dots_of<2>, dots_of<3>, dots_of<4>,  dots_of<5>,  dots_of<6>,
                                       dots_of<7>, dots_of<8>, dots_of<9>, dots_of<10>, dots_of<11>, dots_of<12>};
  // In about equal shares: 16 tokens are 8 and 8, not 12 and 4.
  for (int t = 0, passes = (p.tokens + most_dots - 1) / most_dots; passes > 0; --passes) {
    const int share = (p.tokens - t + passes - 1) / passes;
    of[share - 1](p, p.x + t * p.stride, p.sums + t * p.sums_stride);
    t += share;
  }
}
