// Attention over a cache, written once over the simd operations and compiled for each instruction set.

// 2^x for x <= 0; exactly 0 where x is -infinity: 2^-127 is a denormal, and those are flushed (core/denormals.h).
inline Vec power_of_score(Vec x) { return exp2_of(max(set1(-127.0f), x)); }

// One tile of rows: where its queries, scores and outputs are.
struct Tile {
  const decode_attention::Group& group;
  int row, rows, begin, end;  // keys [begin, end), begin a multiple of block_keys
  float* scores;              // (most_rows, stride), column 0 is key `begin`
  std::ptrdiff_t stride;
  float* queries;  // (most_rows, depth), scaled

  int query(int r) const { return (row + r) / group.share; }
  const float* q(int r) const {
    return group.q + query(r) * group.q_token + static_cast<std::ptrdiff_t>((row + r) % group.share) * group.depth;
  }
  float* y(int r) const {
    return group.y + query(r) * group.y_token + static_cast<std::ptrdiff_t>((row + r) % group.share) * group.depth;
  }
};

inline void scale_queries(const Tile& tile) noexcept {
  const int depth = tile.group.depth;
  for (int r = 0; r < tile.rows; ++r) {
    const float* from = tile.q(r);
    for (int i = 0; i < depth; ++i) tile.queries[r * depth + i] = from[i] * tile.group.scale;
  }
}

// Scores of `rows` rows with `panels` neighbouring panels of keys.
template <int rows, int panels>
inline void score_panels(const Tile& tile, int first_row, int key) noexcept {
  constexpr int parts = decode_attention::block_keys / width;
  const int depth = tile.group.depth;
  const std::size_t panel_floats = static_cast<std::size_t>(depth) * decode_attention::block_keys;
  const float* keys = tile.group.keys + static_cast<std::size_t>(key / decode_attention::block_keys) * panel_floats;
  const float* q = tile.queries + first_row * depth;
  Vec sums[rows][panels * parts];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < panels * parts; ++v) sums[r][v] = zero();
  for (int i = 0; i < depth; ++i) {
    Vec own[panels * parts];
#pragma GCC unroll 16
    for (int v = 0; v < panels * parts; ++v)
      own[v] = loadu(keys + (v / parts) * panel_floats + i * decode_attention::block_keys + v % parts * width);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Vec shared = set1(q[r * depth + i]);
#pragma GCC unroll 16
      for (int v = 0; v < panels * parts; ++v) sums[r][v] = fma(shared, own[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < panels * parts; ++v)
      store(tile.scores + (first_row + r) * tile.stride + (key - tile.begin) + v * width, sums[r][v]);
}

// Registers: rows x panels x (16 / width) sums, and as many keys as there are panels.
template <int rows>
inline void score_rows(const Tile& tile, int first_row) noexcept {
  constexpr int vectors = decode_attention::block_keys / width, room = width == 16 ? 16 : 8;
  constexpr int most = room / (rows * vectors) < 1 ? 1 : room / (rows * vectors);
  constexpr int panels = most > 4 ? 4 : most;
  constexpr int step = panels * decode_attention::block_keys;
  int key = tile.begin;
  for (; key + step <= decode_attention::round_up(tile.end, decode_attention::block_keys); key += step)
    score_panels<rows, panels>(tile, first_row, key);
  for (; key < tile.end; key += decode_attention::block_keys) score_panels<rows, 1>(tile, first_row, key);
}

// scores -> e^(score - largest) up to the last key that the row sees, 0 from there to the tile's end; 1 / their sum, or 0.
inline float softmax_row(const Tile& tile, int r) noexcept {
  const decode_attention::Group& group = tile.group;
  float* const scores = tile.scores + r * tile.stride;
  const int seen = group.past + tile.query(r) + 1 - tile.begin;
  const int padded = decode_attention::round_up(tile.end - tile.begin, decode_attention::block_keys);
  for (int key = 0; key < group.first - tile.begin && key < padded; ++key) scores[key] = -__builtin_inff();
  for (int key = seen < 0 ? 0 : seen; key < padded; ++key) scores[key] = -__builtin_inff();
  Vec top = set1(-__builtin_inff());
  for (int key = 0; key < padded; key += width) {
    Vec v = load(scores + key);
    if (group.allowed != nullptr) {
      const int n = seen - key < 0 ? 0 : seen - key < width ? seen - key : width;
      store(scores + key, v = add(v, allowed(group.allowed + tile.begin + key, n)));
    }
    top = max(top, v);
  }
  const float most = largest(top);
  const Vec shift = set1(most == -__builtin_inff() ? 0.0f : most), to_log2 = set1(1.4426950409f);
  Vec total = zero();
  for (int key = 0; key < padded; key += width) {
    const Vec p = power_of_score(mul(sub(load(scores + key), shift), to_log2));
    store(scores + key, p);
    total = add(total, p);
  }
  const float whole = sum(total);
  return whole == 0.0f ? 0.0f : 1.0f / whole;
}

template <int rows, int vectors>
inline void value_columns(const Tile& tile, int first_row, int column, const float* factors) noexcept {
  const int depth = tile.group.depth, left = depth - column;
  const float* values = tile.group.values + static_cast<std::size_t>(tile.begin) * depth + column;
  const float* p = tile.scores + first_row * tile.stride;
  Vec sums[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = zero();
  for (int key = tile.begin; key < tile.end; ++key, values += depth, ++p) {
    Vec own[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) own[v] = vectors > 1 || left >= width ? loadu(values + v * width) : load_n(values, left);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Vec share = set1(p[r * tile.stride]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[r][v] = fma(share, own[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const Vec y = mul(sums[r][v], set1(factors[first_row + r]));
      float* const to = tile.y(first_row + r) + column + v * width;
      if (vectors > 1 || left >= width) storeu(to, y);
      else store_n(to, y, left);
    }
}

template <int rows>
inline void value_rows(const Tile& tile, int first_row, const float* factors) noexcept {
  constexpr int vectors = width == 16 && rows <= 4 ? 4 : 2;
  int column = 0;
  for (; column + vectors * width <= tile.group.depth; column += vectors * width)
    value_columns<rows, vectors>(tile, first_row, column, factors);
  for (; column < tile.group.depth; column += width) value_columns<rows, 1>(tile, first_row, column, factors);
}

// f<n>(first) for powers of two n that make up `rows`, the largest first.
template <int most, class Function>
inline void by_powers(int rows, Function&& f) {
  int at = 0;
  for (; most >= 8 && rows - at >= 8; at += 8) f(std::integral_constant<int, 8>{}, at);
  for (; rows - at >= 4; at += 4) f(std::integral_constant<int, 4>{}, at);
  for (; rows - at >= 2; at += 2) f(std::integral_constant<int, 2>{}, at);
  for (; rows - at >= 1; at += 1) f(std::integral_constant<int, 1>{}, at);
}

inline void decode_attend(const decode_attention::Group& group, float* scratch) noexcept {
  constexpr int most = width == 16 ? 8 : 4;
  const int all = group.queries * group.share;
  for (int row = 0; row < all; row += decode_attention::most_rows) {
    const int rows = all - row < decode_attention::most_rows ? all - row : decode_attention::most_rows;
    const int end = group.past + (row + rows - 1) / group.share + 1;
    const int begin = (group.first < end ? group.first : end - 1) / decode_attention::block_keys * decode_attention::block_keys;
    const std::ptrdiff_t stride = decode_attention::round_up(end - begin, 4 * decode_attention::block_keys);
    const Tile tile{group, row, rows, begin, end, scratch, stride, scratch + decode_attention::most_rows * stride};
    float factors[decode_attention::most_rows];
    scale_queries(tile);
    by_powers<most>(rows, [&](auto n, int at) { score_rows<n>(tile, at); });
    for (int r = 0; r < rows; ++r) factors[r] = softmax_row(tile, r);
    by_powers<most>(rows, [&](auto n, int at) { value_rows<n>(tile, at, factors); });
  }
}
