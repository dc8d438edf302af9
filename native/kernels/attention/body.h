// Attention of one head, written once over the simd operations and compiled for each instruction set.

inline constexpr int across = width == 16 ? 4 : 2;  // vectors of keys or features in a register tile
inline constexpr float log2_of_e = 1.4426950409f;

// 2^x for x <= 0, exactly 0 below 2^-126 (and for -infinity): exp2_of gives 0 or a flushed denormal at -127.
inline Vec exp2_or_zero(Vec x) { return exp2_of(max(set1(-127.0f), x)); }

// Rows of the tile that begins with `left` rows still to do. A tile of few keeps the last ones of most lengths (128 is
// 21 * 6 + 2) from being computed as if they were a whole one.
inline constexpr int few_queries = 2;
inline int tile_of(int left) noexcept { return left > few_queries ? attention::tile_queries : few_queries; }

// write(r, v, sum over t of left[r][t] * right[t][v]) for `rows` rows and `vectors` vectors.
template <int rows, int vectors, class Write>
inline void tile_product(const float* left, std::ptrdiff_t left_row, const float* right, std::ptrdiff_t right_row,
                         int terms, Write&& write) {
  Vec sums[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = zero();
  for (int t = 0; t < terms; ++t, ++left, right += right_row) {
    Vec shared[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) shared[v] = load(right + v * width);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Vec own = set1(left[r * left_row]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[r][v] = fma(own, shared[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) write(r, v, sums[r][v]);
}

inline void attention_prepare(const attention::Head& head, float* scratch) noexcept {
  const attention::Layout at(head.keys, head.depth);
  for (int key = 0; key < head.keys; key += width) {
    const int tile = key / attention::tile_keys * attention::tile_keys;
    load_column(head.k + key * head.k_row, head.k_row, head.keys - key, head.depth, attention::tile_keys,
                scratch + at.panels + static_cast<std::size_t>(tile) * head.depth + (key - tile));
  }
  for (int key = 0; key < head.keys; ++key) {
    const float* from = head.v + key * head.v_row;
    float* to = scratch + at.values + static_cast<std::size_t>(key) * at.padded_depth;
    for (int i = 0; i < at.padded_depth; i += width) {
      const int n = head.depth - i < width ? head.depth - i : width;
      store(to + i, n == width ? loadu(from + i) : n > 0 ? load_n(from + i, n) : zero());
    }
  }
}

// Scaled queries [first, last), contiguous; rows up to the next multiple of tile_queries are zero.
inline void load_queries(const attention::Head& head, int first, int last, int stride, float* to) noexcept {
  const int rows = attention::round_up(last - first, attention::tile_queries);
  for (int r = 0; r < rows; ++r, to += stride)
    for (int i = 0; i < head.depth; i += width) {
      const int n = head.depth - i < width ? head.depth - i : width;
      const float* from = head.q + (first + r) * head.q_row + i;
      store(to + i, first + r < last ? mul(load_n(from, n), set1(head.scale)) : zero());
    }
}

template <int rows>
inline void score_tile(const attention::Layout& at, int depth, int valid, const float* left, const float* panel,
                       float* out) noexcept {
  constexpr int step = across * width;
  const auto write = [&](int row, int v, Vec sum) {
    store(out + static_cast<std::size_t>(row) * at.padded_keys + v * width, sum);
  };
  for (int c = 0; c < valid; c += step, out += step) {
    if (valid - c > width)
      tile_product<rows, across>(left, at.padded_depth, panel + c, attention::tile_keys, depth, write);
    else
      tile_product<rows, 1>(left, at.padded_depth, panel + c, attention::tile_keys, depth, write);
  }
}

// scores (rows, padded keys) = queries K^T; what lies beyond the last key is anything.
inline void score_block(const attention::Head& head, const attention::Layout& at, int rows, float* scratch) noexcept {
  for (int key = 0; key < head.keys; key += attention::tile_keys) {
    const float* panel = scratch + at.panels + static_cast<std::size_t>(key) * head.depth;
    const int valid = head.keys - key < attention::tile_keys ? head.keys - key : attention::tile_keys;
    for (int r = 0, tile; r < rows; r += tile) {
      tile = tile_of(rows - r);
      const float* left = scratch + at.queries + static_cast<std::size_t>(r) * at.padded_depth;
      float* out = scratch + at.scores + static_cast<std::size_t>(r) * at.padded_keys + key;
      if (tile == few_queries) score_tile<few_queries>(at, head.depth, valid, left, panel, out);
      else score_tile<attention::tile_queries>(at, head.depth, valid, left, panel, out);
    }
  }
}

// What the mask adds to the scores of a query: `added`, or 0 and -infinity for `allowed`; 0 beyond the last key. False if
// that is nothing at all.
inline bool fill_mask(const attention::Head& head, int query, float* to) noexcept {
  Vec size = zero();
  for (int key = 0; key < head.keys; key += width) {
    const int n = head.keys - key < width ? head.keys - key : width;
    const std::ptrdiff_t from = query * head.mask_row + key;
    const Vec v = head.added != nullptr ? load_n(head.added + from, n) : allowed(head.allowed + from, n);
    store(to + key, v);
    size = add(size, abs(v));  // a NaN stays one
  }
  return !(sum(size) == 0.0f);
}

// The masks of `rows` queries from `query` on, `stride` apart; queries from `last` on get the last one's.
inline void fill_masks(const attention::Head& head, int query, int last, int rows, int stride, float* to) noexcept {
  for (int r = 0; r < rows; ++r, to += stride)
    fill_mask(head, query + r < last ? query + r : last - 1, to);
}

// Adds the mask to a row's scores (their largest is taken along), -infinity beyond the last key.
inline Vec masked_scores(float* scores, const float* mask, int key, Vec top) noexcept {
  Vec v = load(scores + key);
  if (mask != nullptr) store(scores + key, v = add(v, load(mask + key)));
  return max(top, v);
}

// scores -> e^(scores + mask - largest) for some rows, side by side so that their chains of additions overlap.
// factors[r] = 1 / the row's sum; 0, without a NaN on the way, for a row that is all -infinity. mask may be null.
template <int rows>
inline void softmax_tile(float* scores, std::ptrdiff_t stride, const float* mask, std::ptrdiff_t mask_stride, int keys,
                         float* factors) noexcept {
  const int padded = attention::round_up(keys, width);
  for (int r = 0; r < rows; ++r)
    for (int key = keys; key < padded; ++key) scores[r * stride + key] = -__builtin_inff();
  Vec top[rows], shift[rows], total[rows];
  for (int r = 0; r < rows; ++r) top[r] = set1(-__builtin_inff()), total[r] = zero();
  for (int key = 0; key < padded; key += width)
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
      top[r] = masked_scores(scores + r * stride, mask == nullptr ? nullptr : mask + r * mask_stride, key, top[r]);
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    const float most = largest(top[r]);  // where it is -infinity every e^(-infinity) becomes 0, and a NaN stays one
    shift[r] = set1(most == -__builtin_inff() ? 0.0f : most);
  }
  for (int key = 0; key < padded; key += width)
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      float* at = scores + r * stride + key;
      const Vec p = exp2_or_zero(mul(sub(load(at), shift[r]), set1(log2_of_e)));
      store(at, p);
      total[r] = add(total[r], p);
    }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    const float whole = sum(total[r]);
    factors[r] = whole == 0.0f ? 0.0f : 1.0f / whole;
  }
}

// `valid` of the tile's rows are written, from query `first` on.
template <int rows, int vectors>
inline void value_tile(const attention::Head& head, const attention::Layout& at, int first, int valid, int column,
                       const float* scores, const float* values, const float* factors) noexcept {
  tile_product<rows, vectors>(scores, at.padded_keys, values, at.padded_depth, head.keys, [&](int row, int v, Vec sum) {
    const int n = head.depth - column - v * width;
    if (row >= valid || n <= 0) return;
    float* to = head.y + (first + row) * head.y_row + column + v * width;
    const Vec y = mul(sum, set1(factors[row]));
    if (n >= width) storeu(to, y);
    else store_n(to, y, n);
  });
}

template <int vectors>
inline void value_columns(const attention::Head& head, const attention::Layout& at, int first, int rows, int column,
                          const float* scratch, const float* factors) noexcept {
  const float* values = scratch + at.values + column;
  for (int r = 0, tile; r < rows; r += tile) {
    tile = tile_of(rows - r);
    const float* scores = scratch + at.scores + static_cast<std::size_t>(r) * at.padded_keys;
    if (tile == few_queries)
      value_tile<few_queries, vectors>(head, at, first + r, rows - r, column, scores, values, factors + r);
    else
      value_tile<attention::tile_queries, vectors>(head, at, first + r, rows - r, column, scores, values, factors + r);
  }
}

inline void attend_block(const attention::Head& head, const attention::Layout& at, int first, int last,
                         float* scratch) noexcept {
  const int rows = last - first;
  float factors[attention::block_queries];
  load_queries(head, first, last, at.padded_depth, scratch + at.queries);
  score_block(head, at, rows, scratch);
  const bool given = head.added != nullptr || head.allowed != nullptr, own_masks = given && head.mask_row != 0;
  float* const mask = scratch + at.mask;
  const bool masked = own_masks || (given && fill_mask(head, 0, mask));
  for (int r = 0, tile; r < rows; r += tile) {
    tile = tile_of(rows - r);
    if (own_masks) fill_masks(head, first + r, last, tile, at.padded_keys, mask);
    const auto softmax = tile == few_queries ? softmax_tile<few_queries> : softmax_tile<attention::tile_queries>;
    softmax(scratch + at.scores + static_cast<std::size_t>(r) * at.padded_keys, at.padded_keys, masked ? mask : nullptr,
            own_masks ? at.padded_keys : 0, head.keys, factors + r);
  }
  int column = 0;
  for (; across == 4 && head.depth - column > 3 * width; column += 4 * width)
    value_columns<4>(head, at, first, rows, column, scratch, factors);
  for (; head.depth - column > width; column += 2 * width)
    value_columns<2>(head, at, first, rows, column, scratch, factors);
  if (column < head.depth) value_columns<1>(head, at, first, rows, column, scratch, factors);
}

inline void attention_attend(const attention::Head& head, int first, int last, float* scratch) noexcept {
  const attention::Layout at(head.keys, head.depth);
  for (int query = first; query < last; query += attention::block_queries) {
    const int end = query + attention::block_queries < last ? query + attention::block_queries : last;
    attend_block(head, at, query, end, scratch);
  }
}
