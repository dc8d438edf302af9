// Sparse x few tokens, written once over the simd operations and compiled for each instruction set.

// Rows taken together in the bitmask walk: each has its own chain of "count the bits, move on", so they overlap.
inline constexpr int ahead = 512;  // values: the hardware stops looking ahead at every page

template <int tokens>
inline constexpr int together = tokens >= 4 ? 1 : 4 / tokens;

// 16 columns of one row: what their values are multiplied with begins at x, `stride` floats a token. Gives where the next
// columns' values begin.
template <int tokens>
inline const float* add_word(unsigned bits, const float* values, const float* x, std::ptrdiff_t stride, Vec (&partial)[tokens]) {
#pragma GCC unroll 4
  for (int part = 0; part < 16 / width; ++part) {
    const unsigned kept = bits >> part * width & ((1u << width) - 1u);
    const Lanes keep = lanes(kept);
    const Vec w = expand(keep, values);
    values += __builtin_popcount(kept);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) partial[t] = fma_lanes(keep, w, x + part * width + t * stride, partial[t]);
  }
  return values;
}

// Rows row, row + apart, ...: far apart, so that each chain runs through memory of its own from task start to task end.
template <int tokens, int rows>
inline void bitmask_rows(const spmv::Rows& weight, int row, int apart, const float* x, float* sums) {
  const int words = (weight.in + 15) / 16;
  const std::uint16_t* masks[rows];
  const float* values[rows];
  Vec partial[rows][tokens];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
    masks[r] = weight.masks + static_cast<std::size_t>(row + r * apart) * words;
    values[r] = weight.values + weight.starts[row + r * apart];
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) partial[r][t] = zero();
  }
  int word = 0;
  for (; word + 4 <= words; word += 4) {  // several words of a row before the next row's: its place in memory stays in a register
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      std::uint64_t mask;
      __builtin_memcpy(&mask, masks[r] + word, sizeof mask);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        __builtin_prefetch(values[r] + ahead, 0, 3);
        values[r] = add_word<tokens>(static_cast<unsigned>(mask >> 16 * i & 0xffff), values[r], x + (word + i) * 16, weight.in, partial[r]);
      }
    }
  }
  for (; word < words; ++word) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) values[r] = add_word<tokens>(masks[r][word], values[r], x + word * 16, weight.in, partial[r]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) sums[r * tokens + t] = sum(partial[r][t]);
}

template <int tokens, class Index>
inline void index_row(const spmv::Rows& weight, const Index* columns, int row, const float* x, float* sums) {
  const std::size_t end = weight.starts[row + 1];
  std::size_t at = weight.starts[row];
  Vec partial[tokens];
  for (int t = 0; t < tokens; ++t) partial[t] = zero();
  for (; at + width <= end; at += width) {
    __builtin_prefetch(weight.values + at + ahead);
    __builtin_prefetch(columns + at + ahead);
    const Vec w = loadu(weight.values + at);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t)
      partial[t] = fma(w, gather(x + static_cast<std::size_t>(t) * weight.in, columns + at), partial[t]);
  }
  if (const int left = static_cast<int>(end - at); left > 0) {  // what is gathered beyond the row must not be used
    const Vec w = load_n(weight.values + at, left);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) {
      const Vec inputs = gather(x + static_cast<std::size_t>(t) * weight.in, columns + at);
      partial[t] = fma(w, keep_first(inputs, left), partial[t]);
    }
  }
  for (int t = 0; t < tokens; ++t) sums[t] = sum(partial[t]);
}

template <int tokens>
inline void put(const RowOutput& output, int row, int rows, int apart, const float* sums) {
  for (int r = 0; r < rows; ++r)
    for (int t = 0; t < tokens; ++t) output.y[t * output.stride + row + r * apart] = sums[r * tokens + t];
}

template <int tokens>
void bitmask(const spmv::Rows& weight, int first, int last, const float* x, const RowOutput& output) {
  constexpr int rows = together<tokens>;
  float sums[rows * tokens];
  const int apart = (last - first) / rows;
  for (int row = first; row < first + apart; ++row) {
    bitmask_rows<tokens, rows>(weight, row, apart, x, sums);
    put<tokens>(output, row, rows, apart, sums);
  }
  for (int row = first + rows * apart; row < last; ++row) {
    bitmask_rows<tokens, 1>(weight, row, 0, x, sums);
    put<tokens>(output, row, 1, 0, sums);
  }
}

template <int tokens>
void index(const spmv::Rows& weight, int first, int last, const float* x, const RowOutput& output) {
  float sums[tokens];
  for (int row = first; row < last; ++row) {
    if (weight.columns16 != nullptr) index_row<tokens>(weight, weight.columns16, row, x, sums);
    else index_row<tokens>(weight, weight.columns32, row, x, sums);
    put<tokens>(output, row, 1, 0, sums);
  }
}

template <int tokens, spmv::Format format>
inline void multiply_exactly(const spmv::Rows& weight, int first, int last, const float* x, const RowOutput& output) {
  if constexpr (format == spmv::Format::bitmask) bitmask<tokens>(weight, first, last, x, output);
  else index<tokens>(weight, first, last, x, output);
}

template <spmv::Format format>
void multiply(const spmv::Rows& weight, int first, int last, const float* x, int tokens,
              const RowOutput& output) noexcept {
  switch (tokens) {
    case 1: multiply_exactly<1, format>(weight, first, last, x, output); break;
    case 2: multiply_exactly<2, format>(weight, first, last, x, output); break;
    case 3: multiply_exactly<3, format>(weight, first, last, x, output); break;
    case 4: multiply_exactly<4, format>(weight, first, last, x, output); break;
    case 5: multiply_exactly<5, format>(weight, first, last, x, output); break;
    case 6: multiply_exactly<6, format>(weight, first, last, x, output); break;
    case 7: multiply_exactly<7, format>(weight, first, last, x, output); break;
    case 8: multiply_exactly<8, format>(weight, first, last, x, output); break;
  }
  finish_rows(output, first, last, tokens);
}
