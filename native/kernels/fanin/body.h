// Constant fan-in x few tokens, written once over the simd operations and those of simd/stored_<isa>.h.

inline constexpr int ahead = 4096;  // bytes fetched in advance

template <int index>
inline std::size_t column_of(const unsigned char* columns, int row) {
  std::uint32_t column = 0;
  __builtin_memcpy(&column, columns + index * row, index);  // little-endian
  return column;
}

template <int index>
inline Vec gather_by(const float* x, const unsigned char* columns) {
  if constexpr (index == 2) return gather_at(x, columns);
  else return gather(x, reinterpret_cast<const unsigned*>(columns));
}

template <Stored stored, int index>
inline void one_by(const fanin::Bands& w, int first, int last, const float* x, const RowOutput& output) {
  constexpr int parts = fanin::band / width, bytes = fanin::step_bytes(stored, index), size = matvec::size_of(stored);
  const unsigned char* at = w.bytes + static_cast<std::size_t>(first / fanin::band) * w.steps * bytes;
  for (int row = first; row < last; row += fanin::band) {
    Vec sums[parts];
    for (int p = 0; p < parts; ++p) sums[p] = zero();
    for (int step = 0; step < w.steps; ++step, at += bytes) {
      for (int line = 0; line < bytes; line += 64) __builtin_prefetch(at + ahead + line);
#pragma GCC unroll 4
      for (int p = 0; p < parts; ++p) {
        const Vec v = load_stored<stored>(at + index * fanin::band + p * width * size);
        sums[p] = fma(v, gather_by<index>(x, at + index * p * width), sums[p]);
      }
    }
    for (int p = 0; p < parts; ++p) {
      const int from = row + p * width, used = last - from < width ? last - from : width;
      if (used <= 0) break;
      const Vec by = stored == Stored::int8 ? loadu(w.scales + from) : set1(1.0f);
      store_n(output.y + from, mul(by, sums[p]), used);
    }
  }
  finish_rows(output, first, last, 1);
}

template <Stored stored, int index>
inline void some_by(const fanin::Bands& w, int first, int last, const float* x, int tokens, const RowOutput& output) {
  constexpr int bytes = fanin::step_bytes(stored, index), at_once = 8;  // rows whose sums stay in registers
  const std::size_t band_bytes = static_cast<std::size_t>(w.steps) * bytes;
  for (int row = first; row < last; row += at_once) {
    const int within = row % fanin::band;
    const unsigned char* at = w.bytes + row / fanin::band * band_bytes;
    Vec sums[at_once];
    for (int r = 0; r < at_once; ++r) sums[r] = zero();
    for (int step = 0; step < w.steps; ++step, at += bytes) {
      for (int line = 0; line < bytes; line += 64) __builtin_prefetch(at + ahead + line);
      const EightValues<stored> values(at + index * fanin::band + within * matvec::size_of(stored));
#pragma GCC unroll 8
      for (int r = 0; r < at_once; ++r) {
        const float* const inputs = x + std::size_t{width} * column_of<index>(at, within + r);
        sums[r] = fma(values.in_all_lanes(r), loadu(inputs), sums[r]);
      }
    }
    for (int r = 0; r < at_once && row + r < last; ++r) {
      float out[width];
      storeu(out, mul(sums[r], set1(stored == Stored::int8 ? w.scales[row + r] : 1.0f)));
      for (int t = 0; t < tokens; ++t) output.y[t * output.stride + row + r] = out[t];
    }
  }
  finish_rows(output, first, last, tokens);
}

template <Stored stored>
void one(const fanin::Bands& w, int first, int last, const float* x, const RowOutput& output) noexcept {
  w.index == 2 ? one_by<stored, 2>(w, first, last, x, output) : one_by<stored, 4>(w, first, last, x, output);
}

template <Stored stored>
void some(const fanin::Bands& w, int first, int last, const float* x, int tokens, const RowOutput& output) noexcept {
  w.index == 2 ? some_by<stored, 2>(w, first, last, x, tokens, output) : some_by<stored, 4>(w, first, last, x, tokens, output);
}
