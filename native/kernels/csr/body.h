// Operations on compressed rows, written once over the simd operations and compiled for each instruction set.

inline constexpr int csr_vectors = csr::tile_tokens / width;

inline void csr_multiply(const csr::Matrix& m, int first, int last, const float* panel, float* acc) noexcept {
  constexpr int chains = csr_vectors <= 4 ? 2 : 1;  // independent sums hide the latency where registers allow
  for (int row = first; row < last; ++row, acc += csr::tile_tokens) {
    Vec sums[chains][csr_vectors];
    for (auto& chain : sums)
      for (Vec& sum : chain) sum = zero();
    const std::int64_t end = m.offsets[row + 1];
    std::int64_t e = m.offsets[row];
    for (; e + chains <= end; e += chains)
#pragma GCC unroll 2
      for (int c = 0; c < chains; ++c) {
        const float* x = panel + static_cast<std::size_t>(m.columns[e + c]) * csr::tile_tokens;
        const Vec weight = set1(m.values[e + c]);
#pragma GCC unroll 16
        for (int v = 0; v < csr_vectors; ++v) sums[c][v] = fma(load(x + v * width), weight, sums[c][v]);
      }
    for (; e < end; ++e) {
      const float* x = panel + static_cast<std::size_t>(m.columns[e]) * csr::tile_tokens;
      for (int v = 0; v < csr_vectors; ++v) sums[0][v] = fma(load(x + v * width), set1(m.values[e]), sums[0][v]);
    }
    for (int v = 0; v < csr_vectors; ++v)
      store(acc + v * width, chains == 2 ? add(sums[0][v], sums[chains - 1][v]) : sums[0][v]);
  }
}

inline void csr_sample(const csr::Matrix& m, int first, int last, const float* left, const float* right,
                       float* out) noexcept {
  for (int row = first; row < last; ++row) {
    Vec gradient[csr_vectors];
    for (int v = 0; v < csr_vectors; ++v)
      gradient[v] = load(left + static_cast<std::size_t>(row - first) * csr::tile_tokens + v * width);
    for (std::int64_t e = m.offsets[row]; e < m.offsets[row + 1]; ++e) {
      const float* x = right + static_cast<std::size_t>(m.columns[e]) * csr::tile_tokens;
      Vec total = mul(gradient[0], load(x));
      for (int v = 1; v < csr_vectors; ++v) total = fma(gradient[v], load(x + v * width), total);
      out[e] += sum(total);
    }
  }
}
