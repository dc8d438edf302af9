// Selected columns x few tokens of bytes, four columns at a time: their bytes are interleaved, so that one instruction adds
// four products a row. Included after body.h, simd/dot_vnni.h and kernels/rounded.h; `Ints` are 16 sums of 32 bits.
//
// Weights are made unsigned by adding 128 (8 to 4-bit ones), which puts that times the sum of the inputs into every sum: it
// is taken out at the end. A task's inputs are rounded to 8 bits by the largest among them.

inline constexpr int four = 4;       // columns
inline constexpr int ahead8 = 12;  // places of the list by which 8-bit slices are fetched in advance

// The bytes of four columns from place i of the list on, as one word: 0 behind its end.
inline std::int32_t word_of(const std::int8_t* bytes, int i, int count) {
  std::uint32_t word;
  __builtin_memcpy(&word, bytes + i, sizeof word);
  const int left = count - i;
  return static_cast<std::int32_t>(left >= four ? word : word & ((1u << (8 * left)) - 1u));
}

// The lanes of 16 bytes of four vectors, transposed: what interleave4 makes of the sums of 64 rows becomes their order.
inline void order_rows(Ints& a, Ints& b, Ints& c, Ints& d) {
  const Ints ab_low = _mm512_shuffle_i32x4(a, b, 0x44), ab_high = _mm512_shuffle_i32x4(a, b, 0xee);
  const Ints cd_low = _mm512_shuffle_i32x4(c, d, 0x44), cd_high = _mm512_shuffle_i32x4(c, d, 0xee);
  a = _mm512_shuffle_i32x4(ab_low, cd_low, 0x88);
  b = _mm512_shuffle_i32x4(ab_low, cd_low, 0xdd);
  c = _mm512_shuffle_i32x4(ab_high, cd_high, 0x88);
  d = _mm512_shuffle_i32x4(ab_high, cd_high, 0xdd);
}

template <int tokens, bool fetch>
inline void add_four8(const Block<four>& block, const std::int32_t* words, int lines, std::int32_t* sums, std::ptrdiff_t apart) {
  Ints x[tokens];
#pragma GCC unroll 4
  for (int t = 0; t < tokens; ++t) x[t] = set_ints(words[t]);
  const Ints flip = _mm512_set1_epi8(-128);
  for (int line = 0; line < lines; ++line) {
    Ints w[four];
#pragma GCC unroll 4
    for (int c = 0; c < four; ++c) {
      if (fetch) __builtin_prefetch(block.next[c] + std::ptrdiff_t{line} * 64, 0, in_passing);
      w[c] = _mm512_xor_si512(loadu_ints(block.at[c] + std::ptrdiff_t{line} * 64), flip);
    }
    interleave4(w[0], w[1], w[2], w[3]);
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t) {
      std::int32_t* const to = sums + t * apart + std::ptrdiff_t{line} * 64;
#pragma GCC unroll 4
      for (int v = 0; v < four; ++v) store_ints(to + 16 * v, dot4(load_ints(to + 16 * v), w[v], x[t]));
    }
  }
}

inline void to_floats8(std::int32_t* sums, int rows, const Rounded& by) {
  const Ints extra = set_ints(128 * by.sum);
  for (int r = 0; r < rows; r += 64) {
    Ints v[four];
    for (int i = 0; i < four; ++i) v[i] = _mm512_sub_epi32(load_ints(sums + r + 16 * i), extra);
    order_rows(v[0], v[1], v[2], v[3]);
    for (int i = 0; i < four; ++i) store(reinterpret_cast<float*>(sums) + r + 16 * i, mul(to_floats(v[i]), set1(by.scale)));
  }
}

template <int tokens>
inline void add_some8(const Block<four>& block, const Active& a, int i, int token, int lines, std::int32_t* sums, std::ptrdiff_t apart) {
  std::int32_t words[tokens];
  for (int t = 0; t < tokens; ++t) words[t] = word_of(a.bytes + (token + t) * a.stride, i, a.count);
  std::int32_t* const to = sums + token * apart;
  if (token == 0) add_four8<tokens, true>(block, words, lines, to, apart);
  else add_four8<tokens, false>(block, words, lines, to, apart);
}

// The sums are integers until all columns have passed.
inline void add_bytes(const columns::Panels& w, int panel, const Active& a, float* floats, std::ptrdiff_t apart) noexcept {
  const Slices<Format::dense, Stored::int8> slices{w, panel, columns::rows_of(Stored::int8, w.out, w.panel, panel)};
  std::int32_t* const sums = reinterpret_cast<std::int32_t*>(floats);
  Rounded by[columns::most_tokens];
  for (int t = 0; t < a.tokens; ++t) {
    by[t] = round_values(a.values + t * a.stride, a.count, a.bytes + t * a.stride);
    for (int r = 0; r < slices.rows; r += 16) store_ints(sums + t * apart + r, ints_zero());
  }
  for (int i = 0; i < a.count; i += four) {
    Block<four> block;
    for (int c = 0; c < four; ++c) block.at[c] = slices.listed(a, i + c), block.next[c] = slices.listed(a, i + ahead8 + c);
    int token = 0;
    for (; token + 4 <= a.tokens; token += 4) add_some8<4>(block, a, i, token, slices.rows / 64, sums, apart);
    for (; token + 2 <= a.tokens; token += 2) add_some8<2>(block, a, i, token, slices.rows / 64, sums, apart);
    if (token < a.tokens) add_some8<1>(block, a, i, token, slices.rows / 64, sums, apart);
  }
  for (int t = 0; t < a.tokens; ++t) to_floats8(sums + t * apart, slices.rows, by[t]);
}

// 4-bit: the columns of one group that are read, `count` slices whose first is place i of the list.
struct Group4 {
  const unsigned char *scales, *at[columns::group_inputs];
  int i, count;
};

// Of the group at place i; one without columns behind the end of the list.
inline Group4 group_from(const Slices<Format::dense, Stored::int4>& slices, const Active& a, int i) {
  Group4 found{nullptr, {}, i, 0};
  if (i >= a.count) return found;
  const int group = a.columns[i] / columns::group_inputs;
  found.scales = slices.group(group);
  for (; i < a.count && a.columns[i] / columns::group_inputs == group; ++i) found.at[found.count++] = slices.at(a.columns[i]);
  for (int c = found.count; c % four != 0; ++c) found.at[c] = found.at[0];  // times 0
  return found;
}

// A byte holds two rows: `both` sums up 16 times the one and the other, `low` the other alone. The lines of the group that
// comes next are asked for meanwhile, few at a time: no more of them can be on their way than some 24.
template <int tokens>
inline void add_group4(const Group4& group, const Group4& next, const Active& a, int token, int rows, float* sums, std::ptrdiff_t apart) {
  const int count = group.count;
  std::int32_t words[tokens][columns::group_inputs / four], total[tokens];
  for (int t = 0; t < tokens; ++t) {
    Ints all = ints_zero();
    for (int c = 0; c < count; c += four) {
      words[t][c / four] = word_of(a.bytes + (token + t) * a.stride + group.i, c, count);
      all = dot4(all, _mm512_set1_epi8(8), set_ints(words[t][c / four]));
    }
    total[t] = _mm512_cvtsi512_si32(all);  // 8 times the sum of the bytes
  }
  const Ints flip = _mm512_set1_epi8(static_cast<char>(0x88)), nibble = _mm512_set1_epi8(15);
  for (int r = 0; r < rows; r += 128) {
    if (token == 0) {
      for (int c = 0; c < next.count; ++c) __builtin_prefetch(next.at[c] + r / 2, 0, in_passing);
      for (int line = 0; next.count != 0 && line < 4; ++line) __builtin_prefetch(next.scales + 2 * r + 64 * line, 0, in_passing);
    }
    Ints both[tokens][four], low[tokens][four];
#pragma GCC unroll 2
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
      for (int v = 0; v < four; ++v) both[t][v] = low[t][v] = ints_zero();
    for (int c = 0; c < count; c += four) {
      Ints w[four];
#pragma GCC unroll 4
      for (int k = 0; k < four; ++k) w[k] = _mm512_xor_si512(loadu_ints(group.at[c + k] + r / 2), flip);
      interleave4(w[0], w[1], w[2], w[3]);
#pragma GCC unroll 2
      for (int t = 0; t < tokens; ++t) {
        const Ints x = set_ints(words[t][c / four]);
#pragma GCC unroll 4
        for (int v = 0; v < four; ++v) {
          both[t][v] = dot4(both[t][v], w[v], x);
          low[t][v] = dot4(low[t][v], _mm512_and_si512(w[v], nibble), x);
        }
      }
    }
#pragma GCC unroll 2
    for (int t = 0; t < tokens; ++t) {
      const Ints extra = set_ints(total[t]);
      Ints(&b)[four] = both[t], (&l)[four] = low[t];
#pragma GCC unroll 4
      for (int v = 0; v < four; ++v) {
        b[v] = _mm512_sub_epi32(_mm512_srai_epi32(_mm512_sub_epi32(b[v], l[v]), 4), extra);
        l[v] = _mm512_sub_epi32(l[v], extra);
      }
      transpose4(b[0], b[1], b[2], b[3]);
      transpose4(l[0], l[1], l[2], l[3]);
      float* const to = sums + t * apart + r;
#pragma GCC unroll 4
      for (int v = 0; v < four; ++v) {
        const int even = 32 * v, odd = even + 16;
        store(to + even, fma(to_floats(l[v]), words_to_floats(group.scales + 2 * (r + even)), load(to + even)));
        store(to + odd, fma(to_floats(b[v]), words_to_floats(group.scales + 2 * (r + odd)), load(to + odd)));
      }
    }
  }
}

inline void add_nibbles(const columns::Panels& w, int panel, const Active& a, float* sums, std::ptrdiff_t apart) noexcept {
  const Slices<Format::dense, Stored::int4> slices{w, panel, columns::rows_of(Stored::int4, w.out, w.panel, panel)};
  Rounded by[columns::most_tokens];
  for (int t = 0; t < a.tokens; ++t) {
    by[t] = round_values(a.values + t * a.stride, a.count, a.bytes + t * a.stride);
    for (int r = 0; r < slices.rows; r += width) store(sums + t * apart + r, zero());
  }
  for (Group4 group = group_from(slices, a, 0); group.count != 0;) {
    const Group4 next = group_from(slices, a, group.i + group.count);
    int token = 0;
    for (; token + 2 <= a.tokens; token += 2) add_group4<2>(group, next, a, token, slices.rows, sums + token * apart, apart);
    if (token < a.tokens) add_group4<1>(group, next, a, token, slices.rows, sums + token * apart, apart);
    group = next;
  }
  for (int t = 0; t < a.tokens; ++t)
    for (int r = 0; r < slices.rows; r += width) store(sums + t * apart + r, mul(load(sums + t * apart + r), set1(by[t].scale)));
}

template <Stored stored>
void add_active8(const columns::Panels& w, int panel, const Active& a, float* sums, std::ptrdiff_t apart) noexcept {
  if constexpr (stored == Stored::int8) add_bytes(w, panel, a, sums, apart);
  else add_nibbles(w, panel, a, sums, apart);
}
