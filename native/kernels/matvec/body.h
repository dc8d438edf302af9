// Streamed weights x few tokens of floats, written once over the simd operations and those of simd/stored_<isa>.h.

// Bytes fetched in advance, of all streams in work together: about what arrives in the time that memory takes to answer.
inline constexpr int ahead = 4096;
// Parts of a chunk are unrolled where they are vector instructions; in plain C++ they would take long to compile.
inline constexpr int unrolled = width > 4 ? 16 : 1;

template <Stored stored, Format format>
inline constexpr int lines_a_chunk =
    format == Format::dense ? (matvec::chunk_columns * size_of(stored) + 63) / 64 : (matvec::chunk_columns / 2 * size_of(stored) + 71) / 64;

template <int lines, int streams>
inline void fetch(const unsigned char* at) {
#pragma GCC unroll 4
  for (int i = 0; i < lines; ++i) __builtin_prefetch(at + ahead / streams + 64 * i, 0, in_passing);
}

inline std::uint64_t mask_at(const unsigned char* at) {
  std::uint64_t mask;
  __builtin_memcpy(&mask, at, 8);
  return mask;
}

// One chunk of one row; gives where the next begins. Masked inputs: a NaN must reach only rows that have its column.
// `finite` inputs need no mask where making one costs: a weight that is not there is 0, and 0 times them is 0.
template <Stored stored, Format format, int tokens, bool finite>
inline const unsigned char* add_chunk(const unsigned char* at, int per_unit, const float* const (&x)[tokens], std::ptrdiff_t column,
                                      Vec (&partial)[tokens]) {
  constexpr int size = size_of(stored), parts = matvec::unit_columns / width;
  if constexpr (format == Format::bitmask && interleaved) {
    return add_interleaved<stored, tokens, finite>(at, x, column, partial);
  } else if constexpr (format == Format::dense) {
#pragma GCC unroll unrolled
    for (int part = 0; part < matvec::chunk_columns / width; ++part) {
      const Vec w = load_stored<stored>(at + part * width * size);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) partial[t] = fma(w, loadu(x[t] + column + part * width), partial[t]);
    }
    return at + matvec::chunk_columns * size;
  } else {
    const std::uint64_t mask = mask_at(at);
    at += 8;
#pragma GCC unroll 4
    for (int unit = 0; unit < 4; ++unit) {
      const unsigned char* from = at;
#pragma GCC unroll unrolled
      for (int part = 0; part < parts; ++part) {
        const int first = unit * matvec::unit_columns + part * width;
        const std::uint64_t bits = mask >> first & ((1u << width) - 1u);
        const Lanes keep = lanes(static_cast<unsigned>(bits));
        const Vec w = expand_stored<stored>(keep, static_cast<unsigned>(bits), from);
        const Used used = used_lanes(keep, w);
        if (format == Format::bitmask || part + 1 < parts) from += static_cast<std::size_t>(__builtin_popcountll(bits)) * size;
#pragma GCC unroll 8
        for (int t = 0; t < tokens; ++t) partial[t] = fma_used(used, w, x[t] + column + first, partial[t]);
      }
      at = format == Format::bitmask ? from : at + per_unit * size;
    }
    return at;
  }
}

// Rows row, row + apart, ...: far apart, so that each runs through memory of its own from task start to task end.
template <Stored stored, Format format, int tokens, int rows, bool finite>
inline void add_rows(const matvec::Rows& w, int row, int apart, const float* const (&x)[tokens], float* sums) {
  const unsigned char* at[rows];
  Vec partial[rows][tokens];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
    at[r] = w.bytes + w.starts[row + r * apart];
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) partial[r][t] = zero();
  }
  const int per_unit = w.per_unit;
  for (int chunk = 0; chunk < w.chunks; ++chunk) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      fetch<lines_a_chunk<stored, format>, rows>(at[r]);
      at[r] = add_chunk<stored, format, tokens, finite>(at[r], per_unit, x, std::ptrdiff_t{chunk} * matvec::chunk_columns, partial[r]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) sums[r * tokens + t] = sum(partial[r][t]);
}

// One row of columns and values, 16 of each at a time.
template <Stored stored, int tokens>
inline void add_indexed(const matvec::Rows& w, int row, const float* const (&x)[tokens], float* sums) {
  constexpr int unit = matvec::unit_columns, size = size_of(stored);
  const unsigned char* at = w.bytes + w.starts[row];
  Vec partial[tokens];
  for (int t = 0; t < tokens; ++t) partial[t] = zero();
  for (int left = static_cast<int>(w.entries[row]); left > 0; left -= unit) {
    __builtin_prefetch(at + ahead / 2, 0, in_passing);
    const int used = left < unit ? left : unit;
    const unsigned char* const values = at + 2 * used;
    if (left >= unit) {
#pragma GCC unroll 4
      for (int part = 0; part < unit; part += width) {
        const Vec v = load_stored<stored>(values + part * size);
#pragma GCC unroll 8
        for (int t = 0; t < tokens; ++t) partial[t] = fma(v, gather_at(x[t], at + 2 * part), partial[t]);
      }
    } else {  // what lies behind the row must be neither gathered by nor used
      for (int i = 0; i < used; ++i) {
        std::uint16_t column;
        __builtin_memcpy(&column, at + 2 * i, 2);
        const Vec v = keep_first(load_stored<stored>(values + i * size), 1);
        for (int t = 0; t < tokens; ++t) partial[t] = fma(v, load_n(x[t] + column, 1), partial[t]);
      }
    }
    at = values + used * size;
  }
  for (int t = 0; t < tokens; ++t) sums[t] = sum(partial[t]);
}

template <Stored stored, Format format, int tokens, int rows, bool finite>
inline void put_rows(const matvec::Rows& w, int row, int apart, const matvec::Inputs& in, int token, const RowOutput& output) {
  const float* x[tokens];
  for (int t = 0; t < tokens; ++t) x[t] = in.x + (token + t < in.tokens ? token + t : in.tokens - 1) * in.stride;
  float sums[rows * tokens];
  if constexpr (format == Format::index) add_indexed<stored, tokens>(w, row, x, sums);
  else add_rows<stored, format, tokens, rows, finite>(w, row, apart, x, sums);
  for (int r = 0; r < rows; ++r) {
    const float scale = stored == Stored::int8 ? w.scales[row + r * apart] : 1.0f;
    for (int t = 0; t < tokens && token + t < in.tokens; ++t)
      output.y[(token + t) * output.stride + row + r * apart] = scale * sums[r * tokens + t];
  }
}

// All tokens pass by a row while it is in the nearest cache.
template <Stored stored, Format format, int rows, bool finite>
inline void put_tokens(const matvec::Rows& w, int row, int apart, const matvec::Inputs& in, const RowOutput& output) {
  if constexpr (rows == 4) return put_rows<stored, format, 1, 4, finite>(w, row, apart, in, 0, output);
  else if constexpr (rows == 2) return put_rows<stored, format, 2, 2, finite>(w, row, apart, in, 0, output);
  else
    for (int token = 0; token < in.tokens;) {
      const int left = in.tokens - token;
      if (left > 4) put_rows<stored, format, 8, 1, finite>(w, row, apart, in, token, output), token += 8;
      else if (left > 1) put_rows<stored, format, 4, 1, finite>(w, row, apart, in, token, output), token += 4;
      else put_rows<stored, format, 1, 1, finite>(w, row, apart, in, token, output), token += 1;
    }
}

template <Stored stored, Format format, int rows, bool finite>
inline void multiply_together(const matvec::Rows& w, int first, int last, const matvec::Inputs& in, const RowOutput& output) {
  const int apart = (last - first) / rows;
  for (int row = first; row < first + apart; ++row) put_tokens<stored, format, rows, finite>(w, row, apart, in, output);
  for (int row = first + rows * apart; row < last; ++row) put_tokens<stored, format, 1, finite>(w, row, 0, in, output);
}

template <Stored stored, Format format, bool finite>
inline void multiply_tokens(const matvec::Rows& w, int first, int last, const matvec::Inputs& in, const RowOutput& output) {
  if (format == Format::index || in.tokens > 2) multiply_together<stored, format, 1, finite>(w, first, last, in, output);
  else if (in.tokens == 1) multiply_together<stored, format, 4, finite>(w, first, last, in, output);
  else multiply_together<stored, format, 2, finite>(w, first, last, in, output);
}

// Whether nothing that is read of the inputs is infinite or NaN: only those are not 0 times 0.
inline bool all_finite(const matvec::Rows& w, const matvec::Inputs& in) {
  Vec zeros = zero();
  for (int t = 0; t < in.tokens; ++t)
    for (int k = 0; k < w.chunks * matvec::chunk_columns; k += width) zeros = fma(zero(), loadu(in.x + t * in.stride + k), zeros);
  return sum(zeros) == 0.0f;
}

template <Stored stored, Format format>
void multiply(const matvec::Rows& w, int first, int last, const matvec::Inputs& in, const RowOutput& output) noexcept {
  if (format == Format::bitmask && interleaved && all_finite(w, in)) multiply_tokens<stored, format, true>(w, first, last, in, output);
  else multiply_tokens<stored, format, false>(w, first, last, in, output);
  finish_rows(output, first, last, in.tokens);
}
