// The layer norm of a sum, written once over the simd operations and compiled for each instruction set.

inline Vec tail(const float* p, int n) { return p == nullptr ? zero() : load_n(p, n); }

// y = x + residual (or x); returns the sum of the row. Two chains of additions hide half the latency of one.
inline float add_rows(const float* x, const float* residual, float* y, int features) noexcept {
  Vec sums[2] = {zero(), zero()};
  int i = 0;
  for (; i + 2 * width <= features; i += 2 * width)
    for (int c = 0; c < 2; ++c) {
      const int at = i + c * width;
      const Vec v = residual == nullptr ? loadu(x + at) : add(loadu(x + at), loadu(residual + at));
      storeu(y + at, v);
      sums[c] = add(sums[c], v);
    }
  for (; i < features; i += width) {
    const int n = features - i < width ? features - i : width;
    const Vec v = add(load_n(x + i, n), tail(residual == nullptr ? nullptr : residual + i, n));
    store_n(y + i, v, n);
    sums[0] = add(sums[0], v);
  }
  return sum(add(sums[0], sums[1]));
}

inline float squares_about(float mean, const float* y, int features) noexcept {
  const Vec centre = set1(mean);
  Vec sums[2] = {zero(), zero()};
  int i = 0;
  for (; i + 2 * width <= features; i += 2 * width)
    for (int c = 0; c < 2; ++c) {
      const Vec v = sub(loadu(y + i + c * width), centre);
      sums[c] = fma(v, v, sums[c]);
    }
  for (; i < features; i += width) {
    const int n = features - i < width ? features - i : width;
    const Vec v = keep_first(sub(load_n(y + i, n), centre), n);
    sums[0] = fma(v, v, sums[0]);
  }
  return sum(add(sums[0], sums[1]));
}

// y = (total - mean) * inverse * weight + bias; total may be y.
inline void scale_row(const norm::Rows& rows, float mean, float inverse, const float* total, float* y) noexcept {
  const Vec centre = set1(mean), factor = set1(inverse);
  int i = 0;
  for (; i + width <= rows.features; i += width) {
    const Vec v = mul(sub(loadu(total + i), centre), factor);
    storeu(y + i, fma(v, loadu(rows.weight + i), rows.bias == nullptr ? zero() : loadu(rows.bias + i)));
  }
  if (const int n = rows.features - i; n > 0) {
    const Vec v = mul(sub(load_n(total + i, n), centre), factor);
    store_n(y + i, fma(v, load_n(rows.weight + i, n), tail(rows.bias == nullptr ? nullptr : rows.bias + i, n)), n);
  }
}

inline void add_layer_norm(const norm::Rows& rows, std::ptrdiff_t first, std::ptrdiff_t last) noexcept {
  const std::ptrdiff_t features = rows.features;
  for (std::ptrdiff_t row = first; row < last; ++row) {
    const float* residual =
        rows.residual == nullptr ? nullptr : rows.residual + row % rows.residual_rows * features;
    float* const y = rows.y + row * features;
    float* const total = rows.total == nullptr ? y : rows.total + row * features;
    const float mean = add_rows(rows.x + row * features, residual, total, rows.features) / static_cast<float>(features);
    const float variance = squares_about(mean, total, rows.features) / static_cast<float>(features);
    scale_row(rows, mean, 1.0f / __builtin_sqrtf(variance + rows.eps), total, y);
  }
}
