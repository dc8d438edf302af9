// Products whose inputs are picked out of registers, written once over the simd operations and simd/table_<isa>.h.

template <Stored stored, int tokens>
inline void multiply_band(const lookup::Bands& w, int band, const float* x, const RowOutput& output) {
  constexpr int bytes = width * (1 + matvec::size_of(stored)), block = 2 * width, chains = tokens == 1 ? 2 : 1;
  const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(w.blocks) * block;
  const unsigned char* at = w.bytes + w.starts[band];
  const unsigned char* const counts = w.counts + static_cast<std::size_t>(band) * w.blocks;
  Vec sums[tokens * chains];
  for (int t = 0; t < tokens * chains; ++t) sums[t] = zero();
  for (int b = 0; b < w.blocks; ++b, x += block) {
    TableOfTwo inputs[tokens];
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) inputs[t] = table_of(x + t * stride);
    int left = counts[b];
    for (; chains == 2 && left >= 2; left -= 2, at += 2 * bytes) {  // one token: two sums, for one would wait for itself
      sums[0] = fma(load_stored<stored>(at + width), pick(inputs[0], places_at(at)), sums[0]);
      sums[chains - 1] = fma(load_stored<stored>(at + bytes + width), pick(inputs[0], places_at(at + bytes)), sums[chains - 1]);
    }
    for (; left > 0; --left, at += bytes) {
      const Places places = places_at(at);
      const Vec values = load_stored<stored>(at + width);
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) sums[t] = fma(values, pick(inputs[t], places), sums[t]);
    }
  }
  if (chains == 2) sums[0] = add(sums[0], sums[chains - 1]);
  const int row = band * width, used = w.out - row < width ? w.out - row : width;
  const Vec by = stored == Stored::int8 ? loadu(w.scales + row) : set1(1.0f);
  for (int t = 0; t < tokens; ++t)
    store_n(output.y + t * output.stride + row, stored == Stored::int8 ? mul(by, sums[t]) : sums[t], used);
}

template <Stored stored, int tokens>
inline void multiply_some(const lookup::Bands& w, int first, int last, const float*& x, int& left, RowOutput& output) {
  for (; left >= tokens; left -= tokens) {
    for (int band = first; band < last; ++band) multiply_band<stored, tokens>(w, band, x, output);
    x += static_cast<std::ptrdiff_t>(tokens) * w.blocks * 2 * width;
    output.y += tokens * output.stride;
  }
}

template <Stored stored>
void multiply_bands(const lookup::Bands& w, int first, int last, const float* x, int tokens, const RowOutput& output) noexcept {
  RowOutput rest = output;
  int left = tokens;
  multiply_some<stored, 8>(w, first, last, x, left, rest);
  multiply_some<stored, 4>(w, first, last, x, left, rest);
  multiply_some<stored, 2>(w, first, last, x, left, rest);
  multiply_some<stored, 1>(w, first, last, x, left, rest);
  const int end = last * width < w.out ? last * width : w.out;
  finish_rows(output, first * width, end, tokens);
}
