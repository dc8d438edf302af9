// The sums of a tile, written once over the simd operations and over what a product is: floats here, or the four bytes
// of a word in kernels/conv8/dots.h.

// Pins an address in a register: indexed operands would split every multiply-add into two micro-operations.
inline void pin([[maybe_unused]] const float*& address) {
#if defined(__x86_64__)
  __asm__("" : "+r"(address));
#endif
}

// Products of float inputs and float weights.
struct FloatProducts {
  using Sum = Vec;
  using Weight = Vec;
  static Sum none() { return zero(); }
  static Sum load_sum(const float* p) { return load(p); }
  static void store_sum(float* p, Sum s) { store(p, s); }
  static Weight weight(const std::uint32_t* word) {
    float value;
    __builtin_memcpy(&value, word, sizeof value);
    return set1(value);
  }
  static Vec input(const float* x) { return load(x); }
  static Sum plus(Sum sum, Vec x, Weight w) { return fma(x, w, sum); }
};

// The offset of row r in a step of `rows`; whole words are read and shifted, for loads are what this loop is short of.
template <int rows>
inline std::size_t offset_of(const std::uint16_t* step, int r) {
  if constexpr (rows % 4 == 0) {
    std::uint64_t word;
    __builtin_memcpy(&word, step + r / 4 * 4, sizeof word);
    return static_cast<std::uint16_t>(word >> (r % 4 * 16));
  } else if constexpr (rows % 2 == 0) {
    std::uint32_t word;
    __builtin_memcpy(&word, step + r / 2 * 2, sizeof word);
    return static_cast<std::uint16_t>(word >> (r % 2 * 16));
  } else {
    return step[r];
  }
}

// sums[r][p] += value * x[p * stride]; `fixed` is the stride where the compiler may know it, else 0.
template <class Products, int pixels, int fixed>
inline void add_taps(typename Products::Sum (&sums)[pixels], const float* x, const std::uint32_t* value, int stride) {
  pin(x);
  const auto weight = Products::weight(value);
#pragma GCC unroll 16
  for (int p = 0; p < pixels; ++p)
    sums[p] = Products::plus(sums[p], Products::input(x + p * (fixed > 0 ? fixed : stride) * width), weight);
}

template <class Products, int rows, int pixels, int fixed>
inline void step_apart(typename Products::Sum (&sums)[rows][pixels], const float* panel, const std::uint16_t* offsets,
                       const std::uint32_t* values, int stride) {
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
    add_taps<Products, pixels, fixed>(sums[r], panel + offset_of<rows>(offsets, r) * width, values + r, stride);
}

template <class Products, int rows, int pixels, int fixed>
inline void step_together(typename Products::Sum (&sums)[rows][pixels], const float* panel, const std::uint16_t* offsets,
                          const std::uint32_t* values, int stride) {
  const float* x = panel + std::size_t{offsets[0]} * width;
  pin(x);
  typename Products::Weight weight[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) weight[r] = Products::weight(values + r);
#pragma GCC unroll 16
  for (int p = 0; p < pixels; ++p) {
    const auto input = Products::input(x + p * (fixed > 0 ? fixed : stride) * width);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) sums[r][p] = Products::plus(sums[r][p], input, weight[r]);
  }
}

template <int rows, int pixels>
inline float* sums_of(float* acc, const std::uint16_t* group, int r) {
  return acc + static_cast<std::size_t>(group[1 + r]) * (pixels * width);
}

inline void ask_ahead(conv::Ahead& ahead) {
  for (int left = ahead.each; left > 0 && ahead.current < conv::most_streams;) {
    conv::Stream& s = ahead.streams[ahead.current];
    if (s.runs <= 0) {
      ++ahead.current;
      continue;
    }
    for (int line = 0; line < s.lines; ++line, --left)
      if (s.to_write) __builtin_prefetch(s.at + line * 64, 1, 3);
      else __builtin_prefetch(s.at + line * 64, 0, 2);
    --s.runs;
    s.at += s.stride;
  }
}

template <class Products, bool together, int rows, int pixels, int fixed>
void accumulate(const conv::Segment& segment, const float* panel, float* acc, int stride, bool first,
                conv::Ahead& ahead) noexcept {
  constexpr int offsets_a_step = together ? 1 : rows;
  const std::uint16_t* group = segment.groups;
  const std::uint16_t* offsets = segment.offsets;
  const std::uint32_t* values = segment.values;
  for (std::size_t left = segment.count; left > 0; --left, group += 1 + rows) {
    typename Products::Sum sums[rows][pixels];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const float* at = sums_of<rows, pixels>(acc, group, r);
#pragma GCC unroll 16
      for (int p = 0; p < pixels; ++p) sums[r][p] = first ? Products::none() : Products::load_sum(at + p * width);
    }
    if (left > 1 && !first) {  // the next group's sums are anywhere in the band: ask for them now
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const float* at = sums_of<rows, pixels>(acc, group + 1 + rows, r);
        for (int p = 0; p < pixels * width; p += 16) __builtin_prefetch(at + p, 1);
      }
    }
    ask_ahead(ahead);
    const int entries = group[0] * rows;
    for (int e = 0; e < entries; e += 16) __builtin_prefetch(values + entries + e, 0, 2);
    for (int steps = group[0]; steps > 0; --steps, offsets += offsets_a_step, values += rows) {
      if constexpr (together) step_together<Products, rows, pixels, fixed>(sums, panel, offsets, values, stride);
      else step_apart<Products, rows, pixels, fixed>(sums, panel, offsets, values, stride);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      float* at = sums_of<rows, pixels>(acc, group, r);
#pragma GCC unroll 16
      for (int p = 0; p < pixels; ++p) Products::store_sum(at + p * width, sums[r][p]);
    }
  }
}

// What is the same for all kinds of products.
template <class Products, bool together, int rows, int pixels>
constexpr conv::Tile make_tile(const char* name, Isa isa) {
  static_assert(pixels <= conv::most_pixels);
  return {name,
          isa,
          rows,
          pixels,
          together,
          width,
          {accumulate<Products, together, rows, pixels, 1>, accumulate<Products, together, rows, pixels, 2>,
           accumulate<Products, together, rows, pixels, 0>},
          load_image};
}
