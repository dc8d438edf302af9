// Max pooling, written once over the simd operations and compiled for each instruction set.

// line[padding + c] = max over the rows of the window at output row r, for every input column c.
inline void combine_rows(const conv_pool::Problem& p, const float* plane, int r, float* line) {
  float* const to = line + p.padding[1];
  const int top = r * p.stride[0] - p.padding[0];
  int first = 0, end = p.kernel[0];
  while (first < end && top + first * p.dilation[0] < 0) ++first;
  while (end > first && top + (end - 1) * p.dilation[0] >= p.height) --end;
  const std::ptrdiff_t step = static_cast<std::ptrdiff_t>(p.dilation[0]) * p.width;
  const float* const from = plane + (top + first * p.dilation[0]) * static_cast<std::ptrdiff_t>(p.width);
  for (int c = 0; c < p.width; c += width) {
    const int left = p.width - c;
    Vec best = set1(-__builtin_inff());
    const float* at = from + c;
    for (int i = first; i < end; ++i, at += step) best = larger(best, left >= width ? loadu(at) : load_n(at, left));
    if (left >= width) storeu(to + c, best);
    else store_n(to + c, best, left);
  }
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

// Some rows at a time: a line's columns are read when its stores have long left the store buffer.
inline void max_pool(const conv_pool::Problem& p, std::ptrdiff_t first, std::ptrdiff_t last, float* lines) noexcept {
  const std::ptrdiff_t line = p.line();
  for (std::ptrdiff_t c = 0; c < line * conv_pool::rows_together; ++c) lines[c] = -__builtin_inff();
  for (std::ptrdiff_t plane = first; plane < last; ++plane) {
    const float* const x = p.x + plane * p.plane;
    float* y = p.y + plane * p.out_plane;
    for (int r = 0; r < p.out_height; r += conv_pool::rows_together) {
      const int rows = p.out_height - r < conv_pool::rows_together ? p.out_height - r : conv_pool::rows_together;
      for (int i = 0; i < rows; ++i) combine_rows(p, x, r + i, lines + i * line);
      for (int i = 0; i < rows; ++i, y += p.out_width) {
        if (p.stride[1] == 1) combine_columns<1>(p, lines + i * line, y);
        else if (p.stride[1] == 2) combine_columns<2>(p, lines + i * line, y);
        else combine_any(p, lines + i * line, y);
      }
    }
  }
}
