// Depthwise convolution of words, written once over the simd operations. Included after kernels/conv8/finish.h.

constexpr int parts = exact_pairs ? 1 : 2;
constexpr int word_rows = width >= 16 ? 4 : 2;  // rows of outputs at once: what there are registers for

// sums[r][j]: in each 128-bit lane l the four channels of pixel 4 l + j.
template <int stride, bool whole>
inline void sum_word_rows(const depthwise::Plane8& p, const Columns<stride>& columns, int row,
                          const Ints (&weight)[3 * parts], Ints (&sums)[word_rows][4]) {
#pragma GCC unroll 16
  for (int i = 0; i < (word_rows - 1) * stride + 3; ++i) {
    const int y = row * stride - p.place.top + i;
    Vec inputs[3] = {set1(p.outside), set1(p.outside), set1(p.outside)};
    if (y >= 0 && y < p.place.height)
      columns.template load<whole>(p.x + static_cast<std::ptrdiff_t>(y) * p.place.width, p.outside, inputs);
    Ints x[4] = {as_words(inputs[0]), as_words(inputs[1]), as_words(inputs[2]), ints_zero()};
    interleave4(x[0], x[1], x[2], x[3]);
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) {
      const int r = (i - k) / stride;
      if (i < k || (i - k) % stride != 0 || r >= word_rows) continue;
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j)
#pragma GCC unroll 2
        for (int part = 0; part < parts; ++part) sums[r][j] = dot4(sums[r][j], x[j], weight[3 * part + k]);
    }
  }
}

// Bytes of words of four channels whose lanes are pixels of all channels in turn: nothing has to be turned round.
struct InTurn {
  Vec scale, shift, lower, upper;
  Ints correction;

  explicit InTurn(const Factors& f) : lower(set1(f.lower)), upper(set1(f.upper)) {
    alignas(64) float scales[width], shifts[width];
    alignas(64) std::int32_t corrections[width];
    for (int i = 0; i < width; ++i) {
      scales[i] = f.scale[i % 4];
      shifts[i] = f.shift[i % 4];
      corrections[i] = f.correction[i % 4];
    }
    scale = load(scales);
    shift = load(shifts);
    correction = load_ints(corrections);
  }
  void store(std::uint8_t* to, const Ints (&sums)[4], int count) const {
    Ints q[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Vec y = fma(to_floats(add_ints(sums[j], correction)), scale, shift);
      q[j] = nearest(max(lower, min(upper, y)));
    }
    store_words_n(to, bytes_in_turn(q[0], q[1], q[2], q[3]), count);
  }
};

template <int stride, conv::Activation activation>
void convolve_plane8(const depthwise::Plane8& p, const conv8::Output& o) {
  Ints weight[3 * parts];
  for (int i = 0; i < 3 * parts; ++i) weight[i] = repeat4(p.weight + 4 * i);
  const Factors factors(o, p.channel, p.image, activation, o.y == nullptr && bounds<activation>);
  const Four four(factors);
  const InTurn in_turn(factors);
  const bool plain = o.y == nullptr && bounds<activation> && o.residual_bytes == nullptr;
  const int channels = o.channels - p.channel < 4 ? o.channels - p.channel : 4;
  const std::ptrdiff_t plane = p.at + (o.y == nullptr ? p.channel / 4 : p.channel) * o.channel;
  for (int c = 0; c < p.place.out_width; c += width) {
    const Columns<stride> columns(p.place, c);
    const int count = p.place.out_width - c < width ? p.place.out_width - c : width;
    for (int row = 0; row < p.place.out_height; row += word_rows) {
      Ints sums[word_rows][4];
      for (int r = 0; r < word_rows; ++r)
        for (int j = 0; j < 4; ++j) sums[r][j] = ints_zero();
      if (columns.inner) sum_word_rows<stride, true>(p, columns, row, weight, sums);
      else sum_word_rows<stride, false>(p, columns, row, weight, sums);
      for (int r = 0; r < word_rows && row + r < p.place.out_height; ++r) {
        const std::ptrdiff_t at = plane + static_cast<std::ptrdiff_t>(row + r) * p.place.out_width + c;
        if (plain) {
          in_turn.store(o.bytes + 4 * at, sums[r], count);
          continue;
        }
        transpose4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
        if (o.y == nullptr) finish_bytes<activation>(o, four, at, count, sums[r]);
        else finish_floats<activation>(o, four, channels, at, count, sums[r]);
      }
    }
  }
}

template <int stride>
void convolve_words(const depthwise::Plane8& p, const conv8::Output& o) noexcept {
  using A = conv::Activation;
  switch (o.activation) {
    case A::none: return convolve_plane8<stride, A::none>(p, o);
    case A::relu: return convolve_plane8<stride, A::relu>(p, o);
    case A::relu6: return convolve_plane8<stride, A::relu6>(p, o);
    case A::silu: return convolve_plane8<stride, A::silu>(p, o);
    case A::hardswish: return convolve_plane8<stride, A::hardswish>(p, o);
    case A::gelu: return convolve_plane8<stride, A::gelu>(p, o);
  }
}
