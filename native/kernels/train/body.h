// Products with a sparse weight in training, written once over the simd operations.

inline constexpr int per_unit = train::unit / width;
inline constexpr int most_units = per_unit == 1 ? 8 : per_unit == 2 ? 4 : 2;  // what the registers hold

inline void load_lines(const float* x, std::ptrdiff_t stride, int valid, int features, int tokens,
                       float* panel) noexcept {
  for (int t = 0; t < tokens; t += width) load_column(x + t * stride, stride, valid - t, features, tokens, panel + t);
}

inline void finish_lines(const float* panel, int features, int tokens, int valid, float* y,
                         std::ptrdiff_t stride) noexcept {
  finish_as<Activation::none>(panel, features, tokens, valid, nullptr, y, stride);
}

template <int units, int shared>
struct Sums {
  static constexpr int vectors = units * per_unit;
  // independent sums hide the latency where registers allow
  static constexpr int chains = shared * vectors >= 8 ? 1 : shared * vectors >= 4 ? 2 : 4;
  Vec of[chains][shared][vectors];
};

template <int units, int shared>
inline void add_entry(Vec (&sums)[shared][units * per_unit], const float* x, std::ptrdiff_t step, const float* weight,
                      std::int64_t row_entries) {
  Vec weights[shared];
#pragma GCC unroll 4
  for (int r = 0; r < shared; ++r) weights[r] = set1(weight[r * row_entries]);
#pragma GCC unroll 8
  for (int u = 0; u < units; ++u)
#pragma GCC unroll 4
    for (int v = 0; v < per_unit; ++v) {
      const Vec in = load(x + u * step + v * width);
#pragma GCC unroll 4
      for (int r = 0; r < shared; ++r) sums[r][u * per_unit + v] = fma(in, weights[r], sums[r][u * per_unit + v]);
    }
}

// `units` places beside each other for every row.
template <int units, int shared, bool together>
inline void multiply_units(const train::Entries& m, int first, int last, const train::Places& p, const float* panel,
                           const float* bias, float* out) {
  using S = Sums<units, shared>;
  const std::ptrdiff_t step = together ? train::unit : p.in_step;
  for (int row = first; row < last; row += shared) {
    S sums;
    for (int c = 0; c < S::chains; ++c)
      for (int r = 0; r < shared; ++r)
        for (Vec& sum : sums.of[c][r]) sum = c == 0 && bias != nullptr ? set1(bias[row + r]) : zero();
    const std::int64_t n = m.begin[row + 1] - m.begin[row];
    const std::int32_t* const at = m.at + m.begin[row];
    const float* const values = m.values + m.begin[row];
    std::int64_t e = 0;
    for (; e + S::chains <= n; e += S::chains)
#pragma GCC unroll 4
      for (int c = 0; c < S::chains; ++c)
        add_entry<units, shared>(sums.of[c], panel + (static_cast<std::ptrdiff_t>(at[e + c]) << m.shift), step,
                                 values + e + c, n);
    for (; e < n; ++e)
      add_entry<units, shared>(sums.of[0], panel + (static_cast<std::ptrdiff_t>(at[e]) << m.shift), step, values + e, n);
    for (int r = 0; r < shared; ++r)
      for (int u = 0; u < units; ++u)
        for (int v = 0; v < per_unit; ++v) {
          Vec sum = sums.of[0][r][u * per_unit + v];
          for (int c = 1; c < S::chains; ++c) sum = add(sum, sums.of[c][r][u * per_unit + v]);
          store(out + (row - first + r) * p.out_row + u * p.out_step + v * width, sum);
        }
  }
}

template <int units, int shared, bool together>
inline void multiply_line(const train::Entries& m, int first, int last, const train::Places& p, int from,
                          const float* panel, const float* bias, float* out) {
  int u = from;
  for (; u + units <= p.across; u += units)
    multiply_units<units, shared, together>(m, first, last, p, panel + u * p.in_step, bias, out + u * p.out_step);
  if constexpr (units > 1) multiply_line<units / 2, shared, together>(m, first, last, p, u, panel, bias, out);
}

template <int shared, bool together>
inline void multiply_all(const train::Entries& m, int first, int last, const train::Places& p, const float* panel,
                         const float* bias, float* out) {
  constexpr int fewer = per_unit == 1 ? (shared == 4 ? 2 : 1) : shared;
  constexpr int units = most_units > fewer ? most_units / fewer : 1;
  for (int line = 0; line < p.down; ++line)
    multiply_line<units, shared, together>(m, first, last, p, 0, panel + line * p.in_line, bias, out + line * p.out_line);
}

template <int shared>
inline void multiply_shared(const train::Entries& m, int first, int last, const train::Places& p, const float* panel,
                            const float* bias, float* out) {
  if (p.in_step == train::unit) return multiply_all<shared, true>(m, first, last, p, panel, bias, out);
  multiply_all<shared, false>(m, first, last, p, panel, bias, out);
}

inline void train_multiply(const train::Entries& m, int first, int last, const train::Places& p, const float* panel,
                           const float* bias, float* out) noexcept {
  switch (m.shared) {
    case 4: return multiply_shared<4>(m, first, last, p, panel, bias, out);
    case 2: return multiply_shared<2>(m, first, last, p, panel, bias, out);
    default: return multiply_shared<1>(m, first, last, p, panel, bias, out);
  }
}

// Eight entries at a time: one load of the gradient serves them all, and their sums are added across lanes together.
template <bool together>
inline void sample_eight(const float* const (&x)[8], const train::Places& p, const float* grad, Vec (&sums)[8]) {
  const std::ptrdiff_t step = together ? train::unit : p.in_step;
  for (int line = 0; line < p.down; ++line) {
    const float* from = grad + line * p.out_line;
    std::ptrdiff_t in = line * p.in_line;
    for (int u = 0; u < p.across; ++u, from += p.out_step, in += step)
#pragma GCC unroll 4
      for (int v = 0; v < per_unit; ++v) {
        const Vec g = load(from + v * width);
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) sums[i] = fma(g, load(x[i] + in + v * width), sums[i]);
      }
  }
}

inline void train_sample(const train::Entries& m, int first, int last, const train::Places& p, const float* panel,
                         const float* grad, float* out) noexcept {
  for (int row = first; row < last; ++row, grad += p.out_row)
    for (std::int64_t e = m.begin[row]; e < m.begin[row + 1]; e += 8) {
      const int used = m.begin[row + 1] - e < 8 ? static_cast<int>(m.begin[row + 1] - e) : 8;
      const float* x[8];
      for (int i = 0; i < 8; ++i)
        x[i] = panel + (static_cast<std::ptrdiff_t>(m.at[e + (i < used ? i : used - 1)]) << m.shift);
      Vec sums[8];
      for (Vec& s : sums) s = zero();
      if (p.in_step == train::unit)
        sample_eight<true>(x, p, grad, sums);
      else
        sample_eight<false>(x, p, grad, sums);
      add_sums8(sums, out + e, used);
    }
}
