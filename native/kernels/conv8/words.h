// Images to words and back, and max pooling of words. Included after simd/words_*.h and kernels/conv8/finish.h.

inline void from_floats(const float* x, std::ptrdiff_t plane, int channels, std::ptrdiff_t count, float inverse,
                        std::int32_t zero_point, std::uint8_t* words) noexcept {
  const Vec by = set1(inverse);
  const Ints shift = set_ints(zero_point);
  for (std::ptrdiff_t p = 0; p < count; p += width) {
    const int n = count - p < width ? static_cast<int>(count - p) : width;
    Ints q[4] = {shift, shift, shift, shift};
    for (int i = 0; i < channels; ++i) q[i] = to_byte(load_n(x + i * plane + p, n), by, shift);
    store_words_n(words + 4 * p, bytes_by_token(q[0], q[1], q[2], q[3]), n);
  }
}

inline void words_to_floats(const std::uint8_t* words, std::ptrdiff_t plane, int channels, std::ptrdiff_t count, float scale,
                            std::int32_t zero_point, float* y) noexcept {
  const Vec by = set1(scale);
  const Ints shift = set_ints(-zero_point);
  for (std::ptrdiff_t p = 0; p < count; p += width) {
    const int n = count - p < width ? static_cast<int>(count - p) : width;
    const Ints q = load_words_n(words + 4 * p, n);
    for (int i = 0; i < channels; ++i) store_n(y + i * plane + p, mul(to_floats(add_ints(byte_lane(q, i), shift)), by), n);
  }
}

// line[padding + c] = max over the rows of the window at output row r, for every input column c.
inline void combine_rows(const conv8::Pool& p, const std::uint8_t* plane, int r, std::uint8_t* line) {
  const int top = r * p.stride[0] - p.padding[0];
  for (int c = 0; c < p.width; c += width) {
    const int n = p.width - c < width ? p.width - c : width;
    Ints best = ints_zero();
    for (int i = 0; i < p.kernel[0]; ++i) {
      const int row = top + i * p.dilation[0];
      if (row < 0 || row >= p.height) continue;
      best = max_bytes(best, load_words_n(plane + 4 * (static_cast<std::ptrdiff_t>(row) * p.width + c), n));
    }
    store_words_n(line + 4 * (p.padding[1] + c), best, n);
  }
}

inline void combine_columns(const conv8::Pool& p, const std::uint8_t* line, std::uint8_t* y) {
  const int stride = p.stride[1];
  for (int c = 0; c < p.out_width; c += width) {
    Ints best = ints_zero();
    for (int j = 0; j < p.kernel[1]; ++j) {
      const std::uint8_t* const from = line + 4 * (static_cast<std::ptrdiff_t>(c) * stride + j * p.dilation[1]);
      best = max_bytes(best, stride == 1 ? loadu_ints(from) : load_even_words(from));
    }
    store_words_n(y + 4 * c, best, p.out_width - c < width ? p.out_width - c : width);
  }
}

inline void combine_any(const conv8::Pool& p, const std::uint8_t* line, std::uint8_t* y) {
  for (int c = 0; c < p.out_width; ++c)
    for (int i = 0; i < 4; ++i) {
      std::uint8_t best = 0;
      for (int j = 0; j < p.kernel[1]; ++j) {
        const std::uint8_t value = line[4 * (static_cast<std::ptrdiff_t>(c) * p.stride[1] + j * p.dilation[1]) + i];
        best = value > best ? value : best;
      }
      y[4 * c + i] = best;
    }
}

inline void max_pool_words(const conv8::Pool& p, std::ptrdiff_t first, std::ptrdiff_t last, std::uint8_t* line) noexcept {
  const std::ptrdiff_t plane = std::ptrdiff_t{4} * p.height * p.width, row = std::ptrdiff_t{4} * p.out_width;
  std::uint8_t* y = p.y + first * p.out_height * row;
  for (std::ptrdiff_t i = first; i < last; ++i)
    for (int r = 0; r < p.out_height; ++r, y += row) {
      combine_rows(p, p.x + i * plane, r, line);
      if (p.stride[1] <= 2) combine_columns(p, line, y);
      else combine_any(p, line, y);
    }
}
