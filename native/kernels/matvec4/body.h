// Groups of 4-bit weights x few tokens, written once over the simd operations and those of simd/nibbles_<isa>.h.

inline constexpr int ahead = 4096;  // bytes fetched in advance, of all rows in work together

// One row in work: what its groups are multiplied with and by, put in order first, so that the loops over groups have
// neither bits to look at nor a last one to watch for: behind the last group stand scales of 0 and inputs that exist.
template <Format format>
struct Row {
  static constexpr int most = matvec4::widest / matvec4::group_inputs + 2 * matvec4::behind;
  int groups;
  const unsigned char* values;
  alignas(64) float scales[most];
  alignas(64) std::uint32_t at[format == Format::groups ? most : 1];  // the first inputs of the groups

  void open(const matvec4::Rows& w, int row) {
    const unsigned char* const start = w.bytes + w.starts[row];
    groups = static_cast<int>(w.entries[row]);
    const int bits = format == Format::groups ? w.mask_bytes : 0;
    const int head = bits + matvec4::scale_bytes * (format == Format::wide ? groups / 2 : groups);
    for (int line = 0; line < head; line += 64) __builtin_prefetch(start + ahead + line, 0, in_passing);
    if constexpr (format == Format::groups) list_groups(start, bits, at);
    list_scales<format == Format::wide>(start + bits, groups, scales);
    values = start + head;
  }
  int first(int i) const { return format == Format::groups ? static_cast<int>(at[i]) : i * matvec4::group_inputs; }
};

template <int tokens, class In, class T>
inline void point_at(const T* (&x)[tokens], const In& in, const T* values, int token) {
  for (int t = 0; t < tokens; ++t) x[t] = values + (token + t < in.tokens ? token + t : in.tokens - 1) * in.stride;
}

// Floats: one row after the other, and no group more than there are: a NaN times 0 would arrive.
template <Format format, int tokens, int rows>
inline void add_groups(const Row<format>* work, const matvec4::Inputs& in, int token, float* sums) {
  const float* x[tokens];
  point_at<tokens>(x, in, in.x, token);
  for (int r = 0; r < rows; ++r) {
    const Row<format>& row = work[r];
    Vec partial[tokens];
    for (int t = 0; t < tokens; ++t) partial[t] = zero();
    for (int i = 0; i < row.groups; ++i) {
      const unsigned char* const values = row.values + matvec4::group_bytes * i;
      __builtin_prefetch(values + ahead, 0, in_passing);
      const Vec by = set1(row.scales[i]);
      const int first = row.first(i);
#pragma GCC unroll 4
      for (int part = 0; part < matvec4::group_inputs / width; ++part) {
        const Vec v = mul(by, nibbles_to_floats(values, part));
#pragma GCC unroll 8
        for (int t = 0; t < tokens; ++t) partial[t] = fma(v, loadu(x[t] + first + part * width), partial[t]);
      }
    }
    for (int t = 0; t < tokens; ++t) sums[r * tokens + t] = sum(partial[t]);
  }
}

template <Format format, int tokens>
inline void add_step(const Row<format>& row, int i, int prefetch, const std::uint8_t* const (&x)[tokens], Vec (&partial)[tokens]) {
  const unsigned char* const values = row.values + matvec4::group_bytes * i;
  __builtin_prefetch(values + prefetch, 0, in_passing);
  const Nibbles w = load_nibbles(values);
  const Vec by = spread_scales(row.scales + i);
#pragma GCC unroll 8
  for (int t = 0; t < tokens; ++t) {
    const Vec products = format == Format::groups ? dot_groups(w, x[t], row.at + i)
                                                  : dot_neighbours(w, x[t] + std::ptrdiff_t{i} * matvec4::group_inputs);
    partial[t] = fma(by, products, partial[t]);
  }
}

// Bytes: rows side by side, `at_once` groups of each in a step, until the longest is done or has more than half of
// `behind` groups more than the shortest; then the rest of each.
template <Format format, int tokens, int rows>
inline void add_groups(const Row<format>* work, const matvec4::Inputs8& in, int token, float* sums) {
  const std::uint8_t* x[tokens];
  point_at<tokens>(x, in, in.values, token);
  Vec partial[rows][tokens];
  int most = 0, least = work[0].groups;
  for (int r = 0; r < rows; ++r) {
    most = work[r].groups > most ? work[r].groups : most;
    least = work[r].groups < least ? work[r].groups : least;
    for (int t = 0; t < tokens; ++t) partial[r][t] = zero();
  }
  const int together = least + matvec4::behind / 2 < most ? least + matvec4::behind / 2 : most;
  int i = 0;
  for (; i < together; i += at_once) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) add_step<format, tokens>(work[r], i, ahead / rows, x, partial[r]);
  }
  for (int r = 0; r < rows; ++r) {
    for (int rest = i; rest < work[r].groups; rest += at_once) add_step<format, tokens>(work[r], rest, ahead, x, partial[r]);
    for (int t = 0; t < tokens; ++t) sums[r * tokens + t] = sum(partial[r][t]);
  }
}

inline float finished(const matvec4::Rows& w, int row, const matvec4::Inputs&, int, float sum) { return w.scales[row] * sum; }

// scale of the token * (scale of the row * sum - zero point * sum of the row's weights)
inline float finished(const matvec4::Rows& w, int row, const matvec4::Inputs8& in, int token, float sum) {
  const std::ptrdiff_t at = token * in.step;
  return in.scale[at] * (w.scales[row] * sum - static_cast<float>(in.zero[at]) * w.sums[row]);
}

template <Format format, int tokens, int rows, class In>
inline void put_rows(const matvec4::Rows& w, const Row<format>* work, int row, int apart, const In& in, int token, const RowOutput& output) {
  float sums[rows * tokens];
  add_groups<format, tokens, rows>(work, in, token, sums);
  for (int r = 0; r < rows; ++r)
    for (int t = 0; t < tokens && token + t < in.tokens; ++t)
      output.y[(token + t) * output.stride + row + r * apart] = finished(w, row + r * apart, in, token + t, sums[r * tokens + t]);
}

// All tokens pass by a row while it is in the nearest cache.
template <Format format, int rows, class In>
inline void put_tokens(const matvec4::Rows& w, Row<format>* work, int row, int apart, const In& in, const RowOutput& output) {
  for (int r = 0; r < rows; ++r) work[r].open(w, row + r * apart);
  if constexpr (rows > 1) return put_rows<format, 1, rows>(w, work, row, apart, in, 0, output);
  else
    for (int token = 0; token < in.tokens;) {
      const int left = in.tokens - token;
      if (left > 4) put_rows<format, 8, 1>(w, work, row, 0, in, token, output), token += 8;
      else if (left > 1) put_rows<format, 4, 1>(w, work, row, 0, in, token, output), token += 4;
      else put_rows<format, 1, 1>(w, work, row, 0, in, token, output), token += 1;
    }
}

template <Format format, class In>
void multiply_rows(const matvec4::Rows& w, int first, int last, const In& in, const RowOutput& output) noexcept {
  constexpr int rows = 4;
  Row<format> work[rows];
  const int apart = in.tokens == 1 ? (last - first) / rows : 0;
  for (int row = first; row < first + apart; ++row) put_tokens<format, rows>(w, work, row, apart, in, output);
  for (int row = first + rows * apart; row < last; ++row) put_tokens<format, 1>(w, work, row, 0, in, output);
  finish_rows(output, first, last, in.tokens);
}
