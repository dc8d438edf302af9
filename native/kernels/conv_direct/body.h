// The sums of a tile, written once over the simd operations. Included after kernels/conv/endings.h.

// Pins an address in a register: indexed operands would split every multiply-add into two micro-operations.
inline void pin_address([[maybe_unused]] const float*& address) {
#if defined(__x86_64__)
  __asm__("" : "+r"(address));
#endif
}

// sums[p] += value * input of pixel p, for p in [from, to). `fixed` is the step where the compiler may know it, else 0.
template <int pixels, int fixed, int from, int to>
inline void add_values(Vec (&sums)[pixels], const conv_direct::Rows& rows, const float* x, int step, std::size_t first,
                       std::size_t last) {
  for (std::size_t i = first; i < last; ++i) {
    const float* at = x + static_cast<std::size_t>(rows.offsets[i]) * width;
    pin_address(at);
    const Vec weight = set1(rows.values[i]);
#pragma GCC unroll 16
    for (int p = from; p < to; ++p) sums[p] = fma(load(at + p * (fixed > 0 ? fixed : step) * width), weight, sums[p]);
  }
}

// The same for any pixels, by way of memory.
template <int pixels>
[[gnu::noinline]] void add_some(float* sums, const conv_direct::Rows& rows, const float* x, int step, std::size_t first,
                                std::size_t last, conv_direct::Span span) {
  for (int p = span.first; p < span.last; ++p) {
    Vec sum = load(sums + p * width);
    for (std::size_t i = first; i < last; ++i) {
      const std::ptrdiff_t at = (static_cast<std::ptrdiff_t>(rows.offsets[i]) + static_cast<std::ptrdiff_t>(p) * step) * width;
      sum = fma(load(x + at), set1(rows.values[i]), sum);
    }
    store(sums + p * width, sum);
  }
}

template <int pixels, int fixed>
inline void add_span(Vec (&sums)[pixels], const conv_direct::Rows& rows, const float* x, int step, std::size_t first,
                     std::size_t last, conv_direct::Span span) {
  if (first == last || span.first >= span.last) return;
  if (span.first == 0 && span.last == pixels) return add_values<pixels, fixed, 0, pixels>(sums, rows, x, step, first, last);
  if (span.first == 1 && span.last == pixels) return add_values<pixels, fixed, 1, pixels>(sums, rows, x, step, first, last);
  if (span.first == 0 && span.last == pixels - 1) return add_values<pixels, fixed, 0, pixels - 1>(sums, rows, x, step, first, last);
  alignas(64) float stored[pixels * width];
#pragma GCC unroll 16
  for (int p = 0; p < pixels; ++p) store(stored + p * width, sums[p]);
  add_some<pixels>(stored, rows, x, step, first, last, span);
#pragma GCC unroll 16
  for (int p = 0; p < pixels; ++p) sums[p] = load(stored + p * width);
}

// Sums to results: those of none and relu are worked out in registers.
template <int pixels>
inline void end_row(const conv_direct::Tile& tile, const Vec (&sums)[pixels], float* y, const float* residual) {
  const bool simple = tile.activation == conv::Activation::none || tile.activation == conv::Activation::relu;
  if (tile.pixels == pixels && simple) {
    const Vec least = set1(tile.activation == conv::Activation::relu ? 0.0f : -__builtin_inff());
#pragma GCC unroll 16
    for (int p = 0; p < pixels; ++p)
      store(y + p * width, max(least, residual == nullptr ? sums[p] : add(sums[p], load(residual + p * width))));
    return;
  }
  alignas(64) float stored[pixels * width];
#pragma GCC unroll 16
  for (int p = 0; p < pixels; ++p) store(stored + p * width, sums[p]);
  for (int p = 0; p < tile.pixels; ++p) {
    const Vec sum = load(stored + p * width);
    store(y + p * width, ended(tile.activation, residual == nullptr ? sum : add(sum, load(residual + p * width))));
  }
}

// A share of what the next tile reads first; `channel` counts on.
template <int pixels>
inline void ask_next(const conv_direct::Tile& tile, int& channel, int channels) {
  for (const int end = channel + channels < tile.in_channels ? channel + channels : tile.in_channels; channel < end; ++channel)
    for (int p = 0; p < pixels * tile.step; ++p)
      __builtin_prefetch(tile.next + channel * tile.in_channel + p * width, 0, 2);
}

template <int pixels, int fixed>
void convolve_rows(const conv_direct::Rows& rows, const conv_direct::Tile& tile, int first, int last) noexcept {
  const int each = tile.next == nullptr ? 0 : (tile.in_channels + last - first - 1) / (last - first);
  int asked = 0;
  std::size_t begin = first == 0 ? 0 : rows.ends[static_cast<std::size_t>(first) * rows.taps - 1];
  for (int o = first; o < last; ++o) {
    float* const y = tile.y + o * tile.channel;
    const float* const residual = tile.residual == nullptr ? nullptr : tile.residual + o * tile.channel;
    for (int p = 0; p < tile.pixels; ++p) {
      __builtin_prefetch(y + p * width, 1, 3);
      if (residual != nullptr) __builtin_prefetch(residual + p * width, 0, 3);
    }
    ask_next<pixels>(tile, asked, each);
    Vec sums[pixels];
    const Vec bias = tile.bias == nullptr ? zero() : set1(tile.bias[o]);
#pragma GCC unroll 16
    for (int p = 0; p < pixels; ++p) sums[p] = bias;
    const std::uint32_t* const ends = rows.ends + static_cast<std::size_t>(o) * rows.taps;
    const std::size_t end = ends[rows.taps - 1];
    if (tile.spans == nullptr) {
      add_values<pixels, fixed, 0, pixels>(sums, rows, tile.x, tile.step, begin, end);
    } else {
      std::size_t from = begin;
      for (int tap = 0; tap < rows.taps; from = ends[tap++])
        add_span<pixels, fixed>(sums, rows, tile.x, tile.step, from, ends[tap], tile.spans[tap]);
    }
    begin = end;
    end_row<pixels>(tile, sums, y, residual);
  }
}

template <int pixels>
constexpr conv_direct::Kernel make_direct(const char* name, Isa isa) {
  static_assert(pixels <= conv_direct::most_pixels);
  return {name, isa, pixels, width, {convolve_rows<pixels, 1>, convolve_rows<pixels, 2>, convolve_rows<pixels, 0>}};
}
