// Grouped N:M x few tokens, written once over the simd operations and those of simd/stored_<isa>.h.

inline constexpr int ahead = 4096;  // bytes fetched in advance

inline void fetch_step(const unsigned char* at, int bytes) {
  for (int line = 0; line < bytes; line += 64) __builtin_prefetch(at + ahead + line);
}

inline float scale_of(const nmg::Bands& w, int row) { return w.scales == nullptr ? 1.0f : w.scales[row]; }

// kept: n where it is known when compiled, so that the loop over a group is none; 0 elsewhere.
template <Stored stored, int kept>
inline void one_of(const nmg::Bands& w, int first, int last, const float* x, const RowOutput& output) {
  constexpr int parts = nmg::band / width, size = matvec::size_of(stored);
  const int n = kept != 0 ? kept : w.kept, bytes = nmg::step_bytes(stored, n);
  const unsigned char* at = w.bytes + static_cast<std::size_t>(first / nmg::band) * w.ways * w.per_way * bytes;
  for (int row = first; row < last; row += nmg::band) {
    Vec sums[parts][2];
    for (int p = 0; p < parts; ++p) sums[p][0] = sums[p][1] = zero();
    for (int way = 0; way < w.ways; ++way) {
      const std::int32_t* const offsets = w.offsets + way * n;
      for (int group = 0; group < w.per_way; ++group, at += bytes) {
        fetch_step(at, bytes);
#pragma GCC unroll 8
        for (int i = 0; i < n; ++i)
#pragma GCC unroll 4
          for (int p = 0; p < parts; ++p) {
            const Vec v = load_stored<stored>(at + 2 * nmg::band + (i * nmg::band + p * width) * size);
            sums[p][i & 1] = fma(v, gather_at(x + offsets[i], at + 2 * p * width), sums[p][i & 1]);
          }
      }
    }
    for (int p = 0; p < parts; ++p) {
      const int from = row + p * width, used = last - from < width ? last - from : width;
      if (used <= 0) break;
      const Vec by = w.scales == nullptr ? set1(1.0f) : loadu(w.scales + from);
      store_n(output.y + from, mul(by, add(sums[p][0], sums[p][1])), used);
    }
  }
  finish_rows(output, first, last, 1);
}

template <Stored stored, int kept>
inline void some_of(const nmg::Bands& w, int first, int last, const float* x, int tokens, const RowOutput& output) {
  constexpr int at_once = 8;  // rows whose sums stay in registers
  const int n = kept != 0 ? kept : w.kept, bytes = nmg::step_bytes(stored, n);
  const std::size_t band_bytes = static_cast<std::size_t>(w.ways) * w.per_way * bytes;
  for (int row = first; row < last; row += at_once) {
    const int within = row % nmg::band;
    const unsigned char* at = w.bytes + row / nmg::band * band_bytes;
    Vec sums[at_once];
    for (int r = 0; r < at_once; ++r) sums[r] = zero();
    for (int way = 0; way < w.ways; ++way) {
      const std::int32_t* const offsets = w.offsets + way * n;
      for (int group = 0; group < w.per_way; ++group, at += bytes) {
        fetch_step(at, bytes);
        const float* inputs[at_once];
#pragma GCC unroll 8
        for (int r = 0; r < at_once; ++r) {
          std::uint16_t column;
          __builtin_memcpy(&column, at + 2 * (within + r), 2);
          inputs[r] = x + std::size_t{width} * column;
        }
#pragma GCC unroll 8
        for (int i = 0; i < n; ++i) {
          const EightValues<stored> values(at + 2 * nmg::band + (i * nmg::band + within) * matvec::size_of(stored));
#pragma GCC unroll 8
          for (int r = 0; r < at_once; ++r)
            sums[r] = fma(values.in_all_lanes(r), loadu(inputs[r] + width * offsets[i]), sums[r]);
        }
      }
    }
    for (int r = 0; r < at_once && row + r < last; ++r) {
      float out[width];
      storeu(out, mul(sums[r], set1(scale_of(w, row + r))));
      for (int t = 0; t < tokens; ++t) output.y[t * output.stride + row + r] = out[t];
    }
  }
  finish_rows(output, first, last, tokens);
}

template <Stored stored>
void one(const nmg::Bands& w, int first, int last, const float* x, const RowOutput& output) noexcept {
  switch (w.kept) {
    case 1: return one_of<stored, 1>(w, first, last, x, output);
    case 2: return one_of<stored, 2>(w, first, last, x, output);
    case 4: return one_of<stored, 4>(w, first, last, x, output);
    default: return one_of<stored, 0>(w, first, last, x, output);
  }
}

template <Stored stored>
void some(const nmg::Bands& w, int first, int last, const float* x, int tokens, const RowOutput& output) noexcept {
  switch (w.kept) {
    case 1: return some_of<stored, 1>(w, first, last, x, tokens, output);
    case 2: return some_of<stored, 2>(w, first, last, x, tokens, output);
    case 4: return some_of<stored, 4>(w, first, last, x, tokens, output);
    default: return some_of<stored, 0>(w, first, last, x, tokens, output);
  }
}
