// Rotary position embedding, written once over the simd operations and compiled for each instruction set.

inline void rotate(float* x, int heads, int depth, const float* cosine, const float* sine) noexcept {
  const int half = depth / 2;
  for (int head = 0; head < heads; ++head, x += depth)
    for (int i = 0; i < half; i += width) {
      const int n = half - i < width ? half - i : width;
      const Vec c = load_n(cosine + i, n), s = load_n(sine + i, n);
      const Vec a = load_n(x + i, n), b = load_n(x + half + i, n);
      store_n(x + i, sub(mul(a, c), mul(b, s)), n);
      store_n(x + half + i, add(mul(b, c), mul(a, s)), n);
    }
}
