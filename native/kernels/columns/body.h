// Selected columns x few tokens, written once over the simd operations, those of simd/stored_<isa>.h, select_<isa>.h and
// packed4_<isa>.h. Sums of a panel stay in the nearest cache while its columns pass.

inline constexpr int together = 4;  // columns taken together: a sum is loaded and stored once for so many
inline constexpr int ahead = 4096;  // bytes of 4-bit slices fetched in advance
// Steps through a line are unrolled where they are vector instructions; in plain C++ they would take minutes to compile.
inline constexpr int unrolled = width > 4 ? 32 : 1;

// Where the slices of a panel are.
template <Format format, Stored stored>
struct Slices {
  const columns::Panels& w;
  int panel, rows;

  const unsigned char* at(int column) const {
    const unsigned char* const base = w.bytes + w.bases[panel];
    if constexpr (format == Format::bitmask)
      return base + w.starts[static_cast<std::size_t>(panel) * (w.in + 1) + column];
    else if constexpr (stored == Stored::int4)
      return base + (column / columns::group_inputs) * group_bytes() + scale_bytes() +
             (column % columns::group_inputs) * columns::slice_bytes(stored, rows);
    else
      return base + column * columns::slice_bytes(stored, rows);
  }
  std::size_t scale_bytes() const { return 2 * static_cast<std::size_t>(rows); }
  std::size_t group_bytes() const { return scale_bytes() + columns::group_inputs * columns::slice_bytes(stored, rows); }
  const unsigned char* group(int number) const { return w.bytes + w.bases[panel] + number * group_bytes(); }

  // The slice that is i places on in the list, the last one behind its end.
  const unsigned char* listed(const Active& a, int i) const { return at(a.columns[i < a.count ? i : a.count - 1]); }
};

// Columns taken together: where their slices begin, and those of as many that come next, which are asked for meanwhile.
template <int taken>
struct Block {
  const unsigned char *at[taken], *next[taken];
};

// sums[t * apart + r] += what the columns of a block have there, for whole values.
template <Stored stored, int taken, int tokens, bool fetch>
inline void add_columns(const Block<taken>& block, const float* values, std::ptrdiff_t stride, int rows, float* sums, std::ptrdiff_t apart) {
  constexpr int size = columns::size_of(stored), line = columns::rows_a_line(stored);
  Vec x[tokens][taken];
#pragma GCC unroll 4
  for (int t = 0; t < tokens; ++t)
#pragma GCC unroll 4
    for (int c = 0; c < taken; ++c) x[t][c] = set1(values[t * stride + c]);
  for (int first = 0; first < rows; first += line) {
#pragma GCC unroll 4
    for (int c = 0; fetch && c < taken; ++c) __builtin_prefetch(block.next[c] + std::ptrdiff_t{first} * size, 0, in_passing);
#pragma GCC unroll unrolled
    for (int r = first; r < first + line; r += width) {
      Vec w[taken];
#pragma GCC unroll 4
      for (int c = 0; c < taken; ++c) w[c] = load_stored<stored>(block.at[c] + std::ptrdiff_t{r} * size);
#pragma GCC unroll 4
      for (int t = 0; t < tokens; ++t) {
        float* const to = sums + t * apart + r;
        Vec sum = load(to);
#pragma GCC unroll 4
        for (int c = 0; c < taken; ++c) sum = fma(w[c], x[t][c], sum);
        store(to, sum);
      }
    }
  }
}

// The same for slices of a bit mask and the values that are there.
template <Stored stored, int taken, int tokens, bool fetch>
inline void add_masked(const Block<taken>& block, const float* values, std::ptrdiff_t stride, int rows, float* sums, std::ptrdiff_t apart) {
  constexpr int size = columns::size_of(stored);
  const unsigned char* from[taken];
  Vec x[tokens][taken];
#pragma GCC unroll 4
  for (int c = 0; c < taken; ++c) {
    from[c] = block.at[c] + rows / 8;
    if (fetch)
      for (int line = 0; line < rows / 8; line += 64) __builtin_prefetch(block.next[c] + line, 0, in_passing);
    for (int t = 0; t < tokens; ++t) x[t][c] = set1(values[t * stride + c]);
  }
  for (int r = 0; r < rows; r += 16) {
    unsigned masks[taken];
#pragma GCC unroll 4
    for (int c = 0; c < taken; ++c) {
      std::uint16_t mask;
      __builtin_memcpy(&mask, block.at[c] + r / 8, 2);
      masks[c] = mask;
      if (fetch) __builtin_prefetch(block.next[c] + (from[c] - block.at[c]) + 64, 0, in_passing);
    }
#pragma GCC unroll unrolled
    for (int part = 0; part < 16 / width; ++part) {
      Vec w[taken];
      Used used[taken];
#pragma GCC unroll 4
      for (int c = 0; c < taken; ++c) {
        const unsigned bits = masks[c] >> part * width & ((1u << width) - 1u);
        const Lanes keep = lanes(bits);
        w[c] = expand_stored<stored>(keep, bits, from[c]);
        used[c] = used_lanes(keep, w[c]);
        from[c] += static_cast<std::size_t>(__builtin_popcount(bits)) * size;
      }
#pragma GCC unroll 4
      for (int t = 0; t < tokens; ++t) {
        float* const to = sums + t * apart + r + part * width;
        Vec sum = load(to);
#pragma GCC unroll 4
        for (int c = 0; c < taken; ++c) sum = fma_kept(used[c], w[c], x[t][c], sum);
        store(to, sum);
      }
    }
  }
}

// All columns of one group of 4-bit weights that are read: `count` slices, whose scales come last.
template <int tokens>
inline void add_group(const unsigned char* scales, const unsigned char* const* at, int count, const float* values,
                      std::ptrdiff_t stride, int rows, float* sums, std::ptrdiff_t apart) {
  constexpr int parts = 16 / width, places = 8;
  Worth by[tokens][columns::group_inputs];
  for (int t = 0; t < tokens; ++t)
    for (int c = 0; c < count; ++c) by[t][c] = worth(values[t * stride + c]);
  for (int r = 0; r < rows; r += places * 16) {
    Vec sum[tokens][places * parts];
#pragma GCC unroll 2
    for (int t = 0; t < tokens; ++t)
#pragma GCC unroll unrolled
      for (int i = 0; i < places * parts; ++i) sum[t][i] = zero();
    for (int c = 0; c < count; ++c) {
#pragma GCC unroll unrolled
      for (int i = 0; i < places * parts; ++i)
#pragma GCC unroll 2
        for (int t = 0; t < tokens; ++t)
          sum[t][i] = add(sum[t][i], worth_of(by[t][c], at[c] + r / 2, i / parts, i % parts));
    }
#pragma GCC unroll unrolled
    for (int i = 0; i < places * parts; ++i) {
      const Vec scale = words_to_floats(scales + 2 * (r + i * width));
#pragma GCC unroll 2
      for (int t = 0; t < tokens; ++t) {
        float* const to = sums + t * apart + r + i * width;
        store(to, fma(sum[t][i], scale, load(to)));
      }
    }
  }
}

template <Format format, Stored stored, int taken, int tokens>
inline void add_some(const Block<taken>& block, const Active& a, int i, int token, int rows, float* sums, std::ptrdiff_t apart) {
  const float* const values = a.values + token * a.stride + i;
  float* const to = sums + token * apart;
  if constexpr (format == Format::bitmask) {
    if (token == 0) add_masked<stored, taken, tokens, true>(block, values, a.stride, rows, to, apart);
    else add_masked<stored, taken, tokens, false>(block, values, a.stride, rows, to, apart);
  } else {
    if (token == 0) add_columns<stored, taken, tokens, true>(block, values, a.stride, rows, to, apart);
    else add_columns<stored, taken, tokens, false>(block, values, a.stride, rows, to, apart);
  }
}

// All tokens pass by the columns while these are in the nearest cache.
template <Format format, Stored stored, int taken>
inline void add_block(const Slices<format, stored>& slices, const Active& a, int i, float* sums, std::ptrdiff_t apart) {
  Block<taken> block;
#pragma GCC unroll 4
  for (int c = 0; c < taken; ++c) {
    block.at[c] = slices.at(a.columns[i + c]);
    block.next[c] = slices.listed(a, i + taken + c);
  }
  int token = 0;
  for (; token + 4 <= a.tokens; token += 4) add_some<format, stored, taken, 4>(block, a, i, token, slices.rows, sums, apart);
  for (; token + 2 <= a.tokens; token += 2) add_some<format, stored, taken, 2>(block, a, i, token, slices.rows, sums, apart);
  if (token < a.tokens) add_some<format, stored, taken, 1>(block, a, i, token, slices.rows, sums, apart);
}

template <Format format, Stored stored>
inline void add_panel(const Slices<format, stored>& slices, const Active& a, float* sums, std::ptrdiff_t apart) {
  int i = 0;
  for (; i + together <= a.count; i += together) add_block<format, stored, together>(slices, a, i, sums, apart);
  for (; i < a.count; ++i) add_block<format, stored, 1>(slices, a, i, sums, apart);
}

inline void add_panel(const Slices<Format::dense, Stored::int4>& slices, const Active& a, float* sums, std::ptrdiff_t apart) {
  const int far = static_cast<int>(ahead / columns::slice_bytes(Stored::int4, slices.rows));
  const unsigned char* at[columns::group_inputs];
  for (int i = 0; i < a.count;) {
    const int group = a.columns[i] / columns::group_inputs;
    int count = 0;
    for (; i + count < a.count && a.columns[i + count] / columns::group_inputs == group; ++count) {
      const unsigned char* const from = slices.listed(a, i + count + far);
      for (std::size_t line = 0; line < columns::slice_bytes(Stored::int4, slices.rows); line += 64) __builtin_prefetch(from + line, 0, in_passing);
      at[count] = slices.at(a.columns[i + count]);
    }
    const unsigned char* const scales = slices.group(group);
    const unsigned char* const next = scales + 4 * slices.group_bytes();
    for (std::size_t line = 0; line < slices.scale_bytes(); line += 64) __builtin_prefetch(next + line, 0, in_passing);
    for (int t = 0; t < a.tokens;) {
      const float* const values = a.values + t * a.stride + i;
      float* const to = sums + t * apart;
      if (a.tokens - t >= 2) add_group<2>(scales, at, count, values, a.stride, slices.rows, to, apart), t += 2;
      else add_group<1>(scales, at, count, values, a.stride, slices.rows, to, apart), t += 1;
    }
    i += count;
  }
}

template <Format format, Stored stored>
void add_active(const columns::Panels& w, int panel, const Active& a, float* sums, std::ptrdiff_t apart) noexcept {
  const Slices<format, stored> slices{w, panel, columns::rows_of(stored, w.out, w.panel, panel)};
  for (int t = 0; t < a.tokens; ++t)
    for (int r = 0; r < slices.rows; r += width) store(sums + t * apart + r, zero());
  if (a.count > 0) add_panel(slices, a, sums, apart);
}

inline void put_rows(const columns::Panels& w, int first, int last, int tokens, const columns::Sums& sums, const RowOutput& output) noexcept {
  for (int t = 0; t < tokens; ++t)
    for (int row = first; row < last; row += width) {
      const int used = last - row < width ? last - row : width;
      const float* from = sums.first + t * sums.apart + row;
      Vec sum = loadu(from);
      for (int part = 1; part < sums.parts; ++part) sum = add(sum, loadu(from += sums.size));
      store_n(output.y + t * output.stride + row, w.scales == nullptr ? sum : mul(sum, load_n(w.scales + row, used)), used);
    }
  finish_rows(output, first, last, tokens);
}

inline int list_columns(const float* x, std::ptrdiff_t tokens, int in, std::int32_t* columns, float* values,
                        std::ptrdiff_t stride) noexcept {
  int count = 0;
  for (int k = 0; k < in; k += width) {
    const int used = in - k < width ? in - k : width;
    unsigned bits = 0;
    for (std::ptrdiff_t t = 0; t < tokens; ++t) bits |= nonzero(x + t * in + k, used);
    if (bits == 0) continue;
    put_numbers(bits, k, columns + count);
    for (std::ptrdiff_t t = 0; t < tokens; ++t) put_named(bits, x + t * in + k, values + t * stride + count);
    count += __builtin_popcount(bits);
  }
  return count;
}
