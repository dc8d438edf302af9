// The layer norm of a sum, written once over the simd operations and compiled for each instruction set.
//
// Some rows side by side: the additions of a row wait for each other and for its mean and variance, those of another row
// do not. What a row gives does not depend on its neighbours.

constexpr int most_rows = 4;

// Rows of one call: where they are, and what they come to.
template <int count>
struct Together {
  const float* x[count];
  const float* residual[count];  // or null
  float* total[count];
  float* y[count];
  float mean[count];
  float inverse[count];  // of the square root of variance + eps
};

inline Vec tail(const float* p, int n) { return p == nullptr ? zero() : load_n(p, n); }

// total = x + residual (or x), and the means. Two chains of additions a row.
template <int count>
inline void add_rows(Together<count>& of, int features) noexcept {
  Vec sums[count][2];
  for (int r = 0; r < count; ++r) sums[r][0] = sums[r][1] = zero();
  const bool alone = of.residual[0] == nullptr;
  int i = 0;
  for (; i + 2 * width <= features; i += 2 * width)
    for (int r = 0; r < count; ++r)
      for (int c = 0; c < 2; ++c) {
        const int at = i + c * width;
        const Vec v = alone ? loadu(of.x[r] + at) : add(loadu(of.x[r] + at), loadu(of.residual[r] + at));
        storeu(of.total[r] + at, v);
        sums[r][c] = add(sums[r][c], v);
      }
  for (; i < features; i += width) {
    const int n = features - i < width ? features - i : width;
    for (int r = 0; r < count; ++r) {
      const Vec v = add(load_n(of.x[r] + i, n), tail(alone ? nullptr : of.residual[r] + i, n));
      store_n(of.total[r] + i, v, n);
      sums[r][0] = add(sums[r][0], v);
    }
  }
  for (int r = 0; r < count; ++r) of.mean[r] = sum(add(sums[r][0], sums[r][1])) / static_cast<float>(features);
}

template <int count>
inline void spread(Together<count>& of, int features, float eps) noexcept {
  Vec centre[count], sums[count][2];
  for (int r = 0; r < count; ++r) {
    centre[r] = set1(of.mean[r]);
    sums[r][0] = sums[r][1] = zero();
  }
  int i = 0;
  for (; i + 2 * width <= features; i += 2 * width)
    for (int r = 0; r < count; ++r)
      for (int c = 0; c < 2; ++c) {
        const Vec v = sub(loadu(of.total[r] + i + c * width), centre[r]);
        sums[r][c] = fma(v, v, sums[r][c]);
      }
  for (; i < features; i += width) {
    const int n = features - i < width ? features - i : width;
    for (int r = 0; r < count; ++r) {
      const Vec v = keep_first(sub(load_n(of.total[r] + i, n), centre[r]), n);
      sums[r][0] = fma(v, v, sums[r][0]);
    }
  }
  for (int r = 0; r < count; ++r) {
    const float variance = sum(add(sums[r][0], sums[r][1])) / static_cast<float>(features);
    of.inverse[r] = 1.0f / __builtin_sqrtf(variance + eps);
  }
}

// y = (total - mean) * inverse * weight + bias; total may be y.
template <int count>
inline void scale_rows(const Together<count>& of, const norm::Rows& rows) noexcept {
  Vec centre[count], factor[count];
  for (int r = 0; r < count; ++r) {
    centre[r] = set1(of.mean[r]);
    factor[r] = set1(of.inverse[r]);
  }
  int i = 0;
  for (; i + width <= rows.features; i += width) {
    const Vec weight = loadu(rows.weight + i), bias = rows.bias == nullptr ? zero() : loadu(rows.bias + i);
    for (int r = 0; r < count; ++r)
      storeu(of.y[r] + i, fma(mul(sub(loadu(of.total[r] + i), centre[r]), factor[r]), weight, bias));
  }
  if (const int n = rows.features - i; n > 0) {
    const Vec weight = load_n(rows.weight + i, n), bias = tail(rows.bias == nullptr ? nullptr : rows.bias + i, n);
    for (int r = 0; r < count; ++r)
      store_n(of.y[r] + i, fma(mul(sub(load_n(of.total[r] + i, n), centre[r]), factor[r]), weight, bias), n);
  }
}

template <int count>
inline void norm_rows(const norm::Rows& rows, std::ptrdiff_t first) noexcept {
  const std::ptrdiff_t features = rows.features;
  Together<count> of;
  for (int r = 0; r < count; ++r) {
    const std::ptrdiff_t row = first + r;
    of.x[r] = rows.x + row * features;
    of.residual[r] = rows.residual == nullptr ? nullptr : rows.residual + row % rows.residual_rows * features;
    of.y[r] = rows.y + row * features;
    of.total[r] = rows.total == nullptr ? of.y[r] : rows.total + row * features;
  }
  add_rows(of, rows.features);
  spread(of, rows.features, rows.eps);
  scale_rows(of, rows);
}

inline void add_layer_norm(const norm::Rows& rows, std::ptrdiff_t first, std::ptrdiff_t last) noexcept {
  std::ptrdiff_t row = first;
  for (; row + most_rows <= last; row += most_rows) norm_rows<most_rows>(rows, row);
  for (; row < last; ++row) norm_rows<1>(rows, row);
}
