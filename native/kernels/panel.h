// In and out of the tokens-across layout that the tiled kernels work in. Included after a simd header.

inline void load_few(const float* x, std::ptrdiff_t stride, int valid, int from, int to, int tokens, float* panel) {
  for (int k = from; k < to; ++k)
    for (int t = 0; t < width; ++t) panel[static_cast<std::size_t>(k) * tokens + t] = t < valid ? x[t * stride + k] : 0.0f;
}

// One vector of tokens: panel[k * tokens + t] = from[t * stride + k] for t < width, zero for t >= valid.
inline void load_column(const float* from, std::ptrdiff_t stride, int valid, int features, int tokens,
                        float* panel) noexcept {
  const int whole = valid >= width ? features / 4 * 4 : 0;
  for (int k = 0; k < whole; k += 4) {
    Vec a = gather4(from + k, stride), b = gather4(from + k + stride, stride);
    Vec c = gather4(from + k + 2 * stride, stride), d = gather4(from + k + 3 * stride, stride);
    transpose4(a, b, c, d);
    float* to = panel + static_cast<std::size_t>(k) * tokens;
    store(to, a);
    store(to + tokens, b);
    store(to + 2 * tokens, c);
    store(to + 3 * tokens, d);
  }
  load_few(from, stride, valid, whole, features, tokens, panel);
}

inline void load_panel(const float* x, std::ptrdiff_t stride, int valid, int features, int depth, int tokens,
                       float* panel) noexcept {
  for (int t = 0; t < tokens; t += width) {
    load_column(x + t * stride, stride, valid - t, features, tokens, panel + t);
    store(panel + static_cast<std::size_t>(depth) * tokens + t, zero());
  }
}

// Four tokens of `width` rows: acc (rows, tokens) in, vectors of rows out.
inline void rows_of_tokens(const float* acc, int tokens, Vec* out) {
  for (int i = 0; i < 4; ++i) out[i] = gather4(acc + i * tokens, tokens);
  transpose4(out[0], out[1], out[2], out[3]);
}

// Tokens whose activations are computed side by side, as far as registers reach: each is a long chain.
constexpr int side_by_side = width == 16 ? 8 : 4;

template <Activation activation>
void finish_as(const float* acc, int rows, int tokens, int valid, const float* bias, float* y, std::ptrdiff_t stride) {
  for (int row = 0; row < rows; row += width, acc += static_cast<std::size_t>(width) * tokens) {
    const int used = rows - row < width ? rows - row : width;
    const Vec shift = bias == nullptr ? zero() : load_n(bias + row, used);
    float* to = y + row;
    Vec out[side_by_side];
    int t = 0;
    for (; t + side_by_side <= valid && used == width; t += side_by_side, to += side_by_side * stride) {
#pragma GCC unroll 4
      for (int i = 0; i < side_by_side; i += 4) rows_of_tokens(acc + t + i, tokens, out + i);
#pragma GCC unroll 8
      for (int i = 0; i < side_by_side; ++i) storeu(to + i * stride, activate<activation>(add(out[i], shift)));
    }
    for (; t < valid; t += 4, to += 4 * stride) {
      rows_of_tokens(acc + t, tokens, out);
      for (int i = 0; i < 4 && t + i < valid; ++i) store_n(to + i * stride, activate<activation>(add(out[i], shift)), used);
    }
  }
}

inline void finish(const float* acc, int rows, int tokens, int valid, const float* bias, Activation activation, float* y,
                   std::ptrdiff_t stride) noexcept {
  with_activation(activation, [&]<Activation a>() { finish_as<a>(acc, rows, tokens, valid, bias, y, stride); });
}
