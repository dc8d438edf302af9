// Max pooling, written once over the simd operations and compiled for each instruction set.

// line[padding + c] = max over the rows of the window at output row r, for every input column c.
inline void combine_rows(const conv_pool::Problem& p, const float* plane, int r, float* line) {
  float* const to = line + p.padding[1];
  bool first = true;
  for (int i = 0; i < p.kernel[0]; ++i) {
    const int row = r * p.stride[0] - p.padding[0] + i * p.dilation[0];
    if (row < 0 || row >= p.height) continue;
    const float* const from = plane + static_cast<std::ptrdiff_t>(row) * p.width;
    int c = 0;
    for (; c + width <= p.width; c += width) {
      const Vec v = loadu(from + c);
      storeu(to + c, first ? v : larger(loadu(to + c), v));
    }
    if (c < p.width) {
      const Vec v = load_n(from + c, p.width - c);
      store_n(to + c, first ? v : larger(load_n(to + c, p.width - c), v), p.width - c);
    }
    first = false;
  }
  if (first)
    for (int c = 0; c < p.width; ++c) to[c] = -__builtin_inff();
}

template <int stride>
void combine_columns(const conv_pool::Problem& p, const float* line, float* y) {
  for (int c = 0; c < p.out_width; c += width) {
    Vec best = set1(-__builtin_inff());
    for (int j = 0; j < p.kernel[1]; ++j) {
      const float* const from = line + c * stride + j * p.dilation[1];
      best = larger(best, stride == 1 ? loadu(from) : load_even(from));
    }
    store_n(y + c, best, p.out_width - c < width ? p.out_width - c : width);
  }
}

inline void combine_any(const conv_pool::Problem& p, const float* line, float* y) {
  for (int c = 0; c < p.out_width; ++c) {
    float best = -__builtin_inff();
    for (int j = 0; j < p.kernel[1]; ++j) {
      const float v = line[c * p.stride[1] + j * p.dilation[1]];
      best = v > best || v != v ? v : best;
    }
    y[c] = best;
  }
}

inline void max_pool(const conv_pool::Problem& p, std::ptrdiff_t first, std::ptrdiff_t last, float* line) noexcept {
  for (int c = 0; c < p.line(); ++c) line[c] = -__builtin_inff();
  for (std::ptrdiff_t plane = first; plane < last; ++plane) {
    const float* const x = p.x + plane * p.height * p.width;
    float* y = p.y + plane * p.out_height * p.out_width;
    for (int r = 0; r < p.out_height; ++r, y += p.out_width) {
      combine_rows(p, x, r, line);
      if (p.stride[1] == 1) combine_columns<1>(p, line, y);
      else if (p.stride[1] == 2) combine_columns<2>(p, line, y);
      else combine_any(p, line, y);
    }
  }
}
