// Chosen rows x few tokens, written once over the simd operations, those of simd/stored_<isa>.h and packed4_<isa>.h.

inline constexpr int ahead = 4096;  // bytes fetched in advance: about what arrives in the time that memory takes to answer
// Steps through a line are unrolled where they are vector instructions; in plain C++ they would take minutes to compile.
inline constexpr int unrolled = width > 4 ? 32 : 1;

// What comes `ahead` bytes behind a place of row i of the list: in a row that is listed later, or in the one behind that.
class Ahead {
 public:
  Ahead(const neurons::Rows& w, const std::int32_t* list, int count, int i) {
    const std::size_t stride = w.stride == 0 ? 64 : w.stride, rows = ahead / stride, rest = ahead % stride;  // 0: no inputs
    const auto row = [&](std::size_t number) { return w.bytes + list[number < std::size_t(count) ? number : count - 1] * w.stride; };
    turn_ = stride - rest;
    before_ = row(i + rows) + rest;
    behind_ = row(i + rows + 1) - turn_;
  }
  void fetch(std::size_t at) const { __builtin_prefetch((at < turn_ ? before_ : behind_) + at, 0, in_passing); }

 private:
  std::size_t turn_;
  const unsigned char *before_, *behind_;
};

// partial[t] += w[k ... k + width) x[t], `used` of them where the row ends.
template <Stored stored, int tokens>
inline void add_part(const unsigned char* row, const float* const (&x)[tokens], int k, int used, Vec (&partial)[tokens]) {
  const Vec w = load_stored<stored>(row + std::ptrdiff_t{k} * columns::size_of(stored));
#pragma GCC unroll 4
  for (int t = 0; t < tokens; ++t)
    partial[t] = fma(w, used == width ? loadu(x[t] + k) : load_n(x[t] + k, used), partial[t]);
}

// Two chains of sums: one alone waits for itself.
template <Stored stored, int tokens>
inline void dot_row(const neurons::Rows& w, const std::int32_t* list, int count, int i, const float* const (&x)[tokens],
                    Vec (&partial)[tokens]) {
  constexpr int size = columns::size_of(stored), line = columns::rows_a_line(stored), taken = line > 2 * width ? line : 2 * width;
  const unsigned char* const row = w.bytes + list[i] * w.stride;
  const Ahead next(w, list, count, i);
  Vec chains[2][tokens];
  for (int t = 0; t < tokens; ++t) chains[0][t] = chains[1][t] = zero();
  int k = 0;
  for (; k + taken <= w.in; k += taken) {
#pragma GCC unroll 2
    for (int l = 0; l < taken; l += line) next.fetch(static_cast<std::size_t>(k + l) * size);
#pragma GCC unroll unrolled
    for (int s = 0; s < taken / width; ++s) add_part<stored, tokens>(row, x, k + s * width, width, chains[s % 2]);
  }
  for (; k < w.in; k += width) {
    if (k % line == 0) next.fetch(static_cast<std::size_t>(k) * size);
    add_part<stored, tokens>(row, x, k, w.in - k < width ? w.in - k : width, chains[0]);
  }
  for (int t = 0; t < tokens; ++t) partial[t] = add(chains[0][t], chains[1][t]);
}

// 4-bit: 16 inputs of one scale are one place of a line.
template <int tokens>
inline void dot_row4(const neurons::Rows& w, const std::int32_t* list, int count, int i, const float* const (&x)[tokens],
                     Vec (&partial)[tokens]) {
  constexpr int parts = 16 / width;
  const unsigned char *const row = w.bytes + list[i] * w.stride, *run = row;
  const Ahead next(w, list, count, i);
  for (int k = 0; k < w.in; k += neurons::run_inputs, run += neurons::run_bytes) {
    next.fetch(static_cast<std::size_t>(run - row)), next.fetch(static_cast<std::size_t>(run - row) + neurons::run_bytes - 1);
    alignas(64) float scales[8];
    for (int part = 0; part < 8; part += width < 8 ? width : 8) {
      if constexpr (width <= 8) store(scales + part, words_to_floats(run + 64 + 2 * part));
      else store_n(scales, words_to_floats(run + 64), 8);
    }
#pragma GCC unroll unrolled
    for (int s = 0; s < 8 * parts; ++s) {
      const int at = k + 16 * (s / parts) + width * (s % parts);
      if (at >= w.in) break;
      const int used = w.in - at < width ? w.in - at : width;
      const Vec v = worth_of(worth(scales[s / parts]), run, s / parts, s % parts);
      for (int t = 0; t < tokens; ++t)
        partial[t] = fma(v, used == width ? loadu(x[t] + at) : load_n(x[t] + at, used), partial[t]);
    }
  }
}

template <Stored stored, int tokens>
inline void put_row(const neurons::Rows& w, const std::int32_t* list, int count, int i, const float* x, const float* bias, float* y,
                    std::ptrdiff_t stride) {
  const float* at[tokens];
  Vec partial[tokens];
  for (int t = 0; t < tokens; ++t) at[t] = x + std::ptrdiff_t{t} * w.in, partial[t] = zero();
  if constexpr (stored == Stored::int4) dot_row4<tokens>(w, list, count, i, at, partial);
  else dot_row<stored, tokens>(w, list, count, i, at, partial);
  const std::int32_t row = list[i];
  for (int t = 0; t < tokens; ++t) {
    const float dot = w.scales == nullptr ? sum(partial[t]) : w.scales[row] * sum(partial[t]);
    y[t * stride + row] = bias == nullptr ? dot : dot + bias[row];
  }
}

// All tokens pass by a row while it is in the nearest cache.
template <Stored stored>
void multiply_list(const neurons::Rows& w, const std::int32_t* list, int count, const float* x, std::ptrdiff_t tokens,
                   const float* bias, float* y, std::ptrdiff_t stride) noexcept {
  for (int i = 0; i < count; ++i) {
    std::ptrdiff_t t = 0;
    for (; t + 4 <= tokens; t += 4) put_row<stored, 4>(w, list, count, i, x + t * w.in, bias, y + t * stride, stride);
    for (; t < tokens; ++t) put_row<stored, 1>(w, list, count, i, x + t * w.in, bias, y + t * stride, stride);
  }
}
