// Streamed 8-bit weights x few tokens of bytes, exact in integers. Included after body.h and simd/bytes_<isa>.h.

template <Format format>
inline const unsigned char* take_chunk(const unsigned char* at, int per_unit, Bytes& w) {
  if constexpr (format == Format::dense) {
    w = load_bytes(at);
    return at + matvec::chunk_columns;
  } else {
    const std::uint64_t mask = mask_at(at);
    if constexpr (format == Format::fixed) {
      w = expand_bytes(mask, at + 8, per_unit, 2 * per_unit, 3 * per_unit);
      return at + 8 + 4 * per_unit;
    } else {
      const int one = __builtin_popcount(static_cast<unsigned>(mask) & 0xffffu), two = __builtin_popcount(static_cast<unsigned>(mask));
      const int three = __builtin_popcountll(mask << 16);
      w = expand_bytes(mask, at + 8, one, two, three);
      return at + 8 + static_cast<std::size_t>(__builtin_popcountll(mask));
    }
  }
}

template <Format format, int tokens, int rows>
inline void add_rows8(const matvec::Rows& w, int row, int apart, const std::uint8_t* const (&x)[tokens], std::int64_t* sums) {
  const unsigned char* at[rows];
  for (int r = 0; r < rows; ++r) at[r] = w.bytes + w.starts[row + r * apart];
  for (int i = 0; i < rows * tokens; ++i) sums[i] = 0;
  const int per_unit = w.per_unit;
  for (int from = 0; from < w.chunks; from += matvec::longest_sum) {
    const int to = w.chunks - from < matvec::longest_sum ? w.chunks : from + matvec::longest_sum;
    Sums partial[rows][tokens];
    for (int r = 0; r < rows; ++r)
      for (int t = 0; t < tokens; ++t) partial[r][t] = no_sums();
    for (int chunk = from; chunk < to; ++chunk) {
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        fetch<1, rows>(at[r]);
        Bytes v;
        at[r] = take_chunk<format>(at[r], per_unit, v);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; ++t)
          partial[r][t] = dot_bytes(partial[r][t], v, x[t] + std::ptrdiff_t{chunk} * matvec::chunk_columns);
      }
    }
    for (int r = 0; r < rows; ++r)
      for (int t = 0; t < tokens; ++t) sums[r * tokens + t] += sum_of(partial[r][t]);
  }
}

// y = scale of the row * scale of the token * (sum - zero point * sum of the row's weights)
template <Format format, int tokens, int rows>
inline void put_rows8(const matvec::Rows& w, int row, int apart, const matvec::Inputs8& in, int token, const RowOutput& output) {
  const std::uint8_t* x[tokens];
  for (int t = 0; t < tokens; ++t) x[t] = in.values + (token + t < in.tokens ? token + t : in.tokens - 1) * in.stride;
  std::int64_t sums[rows * tokens];
  add_rows8<format, tokens, rows>(w, row, apart, x, sums);
  for (int r = 0; r < rows; ++r)
    for (int t = 0; t < tokens && token + t < in.tokens; ++t) {
      const int at = row + r * apart;
      const std::int64_t centred = sums[r * tokens + t] - std::int64_t{in.zero[(token + t) * in.step]} * w.sums[at];
      output.y[(token + t) * output.stride + at] = w.scales[at] * in.scale[(token + t) * in.step] * static_cast<float>(centred);
    }
}

template <Format format, int rows>
inline void put_tokens8(const matvec::Rows& w, int row, int apart, const matvec::Inputs8& in, const RowOutput& output) {
  if constexpr (rows == 4) return put_rows8<format, 1, 4>(w, row, apart, in, 0, output);
  else if constexpr (rows == 2) return put_rows8<format, 2, 2>(w, row, apart, in, 0, output);
  else
    for (int token = 0; token < in.tokens;) {
      const int left = in.tokens - token;
      if (left > 4) put_rows8<format, 8, 1>(w, row, apart, in, token, output), token += 8;
      else if (left > 1) put_rows8<format, 4, 1>(w, row, apart, in, token, output), token += 4;
      else put_rows8<format, 1, 1>(w, row, apart, in, token, output), token += 1;
    }
}

template <Format format, int rows>
inline void multiply_together8(const matvec::Rows& w, int first, int last, const matvec::Inputs8& in, const RowOutput& output) {
  const int apart = (last - first) / rows;
  for (int row = first; row < first + apart; ++row) put_tokens8<format, rows>(w, row, apart, in, output);
  for (int row = first + rows * apart; row < last; ++row) put_tokens8<format, 1>(w, row, 0, in, output);
}

template <Format format>
void multiply8(const matvec::Rows& w, int first, int last, const matvec::Inputs8& in, const RowOutput& output) noexcept {
  if (in.tokens > 2) multiply_together8<format, 1>(w, first, last, in, output);
  else if (in.tokens == 1) multiply_together8<format, 4>(w, first, last, in, output);
  else multiply_together8<format, 2>(w, first, last, in, output);
  finish_rows(output, first, last, in.tokens);
}
