// The RMS norm of a sum, written once over the simd operations and compiled for each instruction set.

inline Vec sum_at(const rms::Rows& rows, std::ptrdiff_t at, int n) noexcept {
  const Vec x = n == width ? loadu(rows.x + at) : load_n(rows.x + at, n);
  if (rows.residual == nullptr) return x;
  const Vec r = n == width ? loadu(rows.residual + at) : load_n(rows.residual + at, n);
  return add(x, r);
}

inline void put_n(float* to, Vec v, int n) noexcept {
  if (n == width) storeu(to, v);
  else store_n(to, v, n);
}

// sum (or, without one, y) gets x + residual; returns the sum of its squares.
inline float add_row(const rms::Rows& rows, std::ptrdiff_t row) noexcept {
  float* const to = rows.sum != nullptr ? rows.sum : rows.y;
  Vec squares[2] = {zero(), zero()};
  int i = 0;
  for (; i + 2 * width <= rows.features; i += 2 * width)
    for (int c = 0; c < 2; ++c) {
      const Vec v = sum_at(rows, row + i + c * width, width);
      storeu(to + row + i + c * width, v);
      squares[c] = fma(v, v, squares[c]);
    }
  for (; i < rows.features; i += width) {
    const int n = rows.features - i < width ? rows.features - i : width;
    const Vec v = sum_at(rows, row + i, n);
    put_n(to + row + i, v, n);
    squares[0] = fma(v, v, squares[0]);
  }
  return sum(add(squares[0], squares[1]));
}

inline void add_rms_norm(const rms::Rows& rows, std::ptrdiff_t first, std::ptrdiff_t last) noexcept {
  const float* const from = rows.sum != nullptr ? rows.sum : rows.y;
  for (std::ptrdiff_t r = first; r < last; ++r) {
    const std::ptrdiff_t row = r * rows.stride;
    const float mean = add_row(rows, row) / static_cast<float>(rows.features);
    const Vec factor = set1(1.0f / __builtin_sqrtf(mean + rows.eps));
    for (int i = 0; i < rows.features; i += width) {
      const int n = rows.features - i < width ? rows.features - i : width;
      const Vec v = n == width ? loadu(from + row + i) : load_n(from + row + i, n);
      const Vec w = n == width ? loadu(rows.weight + i) : load_n(rows.weight + i, n);
      put_n(rows.y + row + i, mul(w, mul(v, factor)), n);
    }
  }
}
