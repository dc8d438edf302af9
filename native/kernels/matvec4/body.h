// Groups of 4-bit weights x few tokens, written once over the simd operations and those of simd/nibbles_<isa>.h.

inline constexpr int ahead = 1024;  // bytes of a stream fetched in advance

// Numbers of the groups of a row; the three behind the last are 0.
inline void list_groups(const unsigned char* mask, int bytes, std::uint16_t* to) {
  for (int i = 0; i < bytes; ++i) {
    const unsigned bits = mask[i];
    const std::uint64_t base = 0x0008000800080008ull * static_cast<unsigned>(i);
    const std::uint64_t low = matvec4::places.of[bits][0] + base, high = matvec4::places.of[bits][1] + base;
    __builtin_memcpy(to, &low, 8);
    __builtin_memcpy(to + 4, &high, 8);
    to += __builtin_popcount(bits);
  }
  __builtin_memset(to, 0, 8);
}

struct Row {
  const std::uint16_t* at;        // numbers of the groups, where some may be missing
  const unsigned char *scales, *values;
  int groups;
};

template <Format format>
inline Row row_of(const matvec4::Rows& w, int row, std::uint16_t* at) {
  const unsigned char* const start = w.bytes + w.starts[row];
  const int groups = static_cast<int>(w.entries[row]);
  const int scales = format == Format::wide ? (groups + 1) / 2 : groups;
  const int head = (format == Format::groups ? w.mask_bytes : 0) + matvec4::scale_bytes * scales;
  for (int line = 0; line < head; line += 64) __builtin_prefetch(start + ahead + line);
  if constexpr (format == Format::groups) list_groups(start, w.mask_bytes, at);
  return {at, start + head - matvec4::scale_bytes * scales, start + head, groups};
}

template <Format format>
inline int group_at(const Row& row, int i) {
  return format == Format::groups ? row.at[i] : i;
}

template <Format format, int tokens>
inline void add_row(const Row& row, const float* const (&x)[tokens], float* sums) {
  Vec partial[tokens];
  for (int t = 0; t < tokens; ++t) partial[t] = zero();
  for (int i = 0; i < row.groups; ++i) {
    const unsigned char* const values = row.values + matvec4::group_bytes * i;
    __builtin_prefetch(values + ahead);
    std::uint16_t scale;
    __builtin_memcpy(&scale, row.scales + matvec4::scale_bytes * (format == Format::wide ? i / 2 : i), 2);
    const Vec by = set1(static_cast<float>(scale));
    const std::ptrdiff_t first = std::ptrdiff_t{group_at<format>(row, i)} * matvec4::group_inputs;
#pragma GCC unroll 4
    for (int part = 0; part < matvec4::group_inputs / width; ++part) {
      const Vec v = mul(by, nibbles_to_floats(values, part));
#pragma GCC unroll 8
      for (int t = 0; t < tokens; ++t) partial[t] = fma(v, loadu(x[t] + first + part * width), partial[t]);
    }
  }
  for (int t = 0; t < tokens; ++t) sums[t] = sum(partial[t]);
}

// `at_once` groups share a step; those behind the row's last get scale 0, so what is read for them does not count.
template <Format format, int tokens>
inline void add_row8(const Row& row, const std::uint8_t* const (&x)[tokens], float* sums) {
  Vec partial[tokens];
  for (int t = 0; t < tokens; ++t) partial[t] = zero();
  for (int i = 0; i < row.groups; i += at_once) {
    const unsigned char* const values = row.values + matvec4::group_bytes * i;
    __builtin_prefetch(values + ahead);
    const Nibbles w = load_nibbles(values);
    const Vec by = spread_scales<format == Format::wide>(row.scales, i, row.groups - i);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; ++t) {
      const Vec products = format == Format::groups ? dot_groups(w, x[t], row.at + i)
                                                    : dot_neighbours(w, x[t] + std::ptrdiff_t{i} * matvec4::group_inputs);
      partial[t] = fma(by, products, partial[t]);
    }
  }
  for (int t = 0; t < tokens; ++t) sums[t] = sum(partial[t]);
}

template <int tokens, class In, class T>
inline void point_at(const T* (&x)[tokens], const In& in, const T* values, int token) {
  for (int t = 0; t < tokens; ++t) x[t] = values + (token + t < in.tokens ? token + t : in.tokens - 1) * in.stride;
}

template <Format format, int tokens>
inline void put_row(const matvec4::Rows& w, const Row& row, int number, const matvec4::Inputs& in, int token, const RowOutput& output) {
  const float* x[tokens];
  point_at<tokens>(x, in, in.x, token);
  float sums[tokens];
  add_row<format, tokens>(row, x, sums);
  for (int t = 0; t < tokens && token + t < in.tokens; ++t)
    output.y[(token + t) * output.stride + number] = w.scales[number] * sums[t];
}

// y = scale of the token * (scale of the row * sum - zero point * sum of the row's weights)
template <Format format, int tokens>
inline void put_row(const matvec4::Rows& w, const Row& row, int number, const matvec4::Inputs8& in, int token, const RowOutput& output) {
  const std::uint8_t* x[tokens];
  point_at<tokens>(x, in, in.values, token);
  float sums[tokens];
  add_row8<format, tokens>(row, x, sums);
  for (int t = 0; t < tokens && token + t < in.tokens; ++t) {
    const std::ptrdiff_t at = (token + t) * in.step;
    const float centred = w.scales[number] * sums[t] - static_cast<float>(in.zero[at]) * w.sums[number];
    output.y[(token + t) * output.stride + number] = in.scale[at] * centred;
  }
}

// All tokens pass by a row while it is in the nearest cache.
template <Format format, class In>
void multiply_rows(const matvec4::Rows& w, int first, int last, const In& in, const RowOutput& output) noexcept {
  std::uint16_t at[matvec4::widest / matvec4::group_inputs + 8];
  for (int number = first; number < last; ++number) {
    const Row row = row_of<format>(w, number, at);
    for (int token = 0; token < in.tokens;) {
      const int left = in.tokens - token;
      if (left > 4) put_row<format, 8>(w, row, number, in, token, output), token += 8;
      else if (left > 1) put_row<format, 4>(w, row, number, in, token, output), token += 4;
      else put_row<format, 1>(w, row, number, in, token, output), token += 1;
    }
  }
  finish_rows(output, first, last, in.tokens);
}
