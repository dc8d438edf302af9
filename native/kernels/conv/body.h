// The sparse convolution tile, written once over the simd operations and compiled for each instruction set.

// Pins an address in a register: indexed operands would split every multiply-add into two micro-operations.
inline void pin(const float*& address) {
#if defined(__x86_64__)
  __asm__("" : "+r"(address));
#endif
}

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
template <int pixels, int fixed>
inline void add_taps(Vec (&sums)[pixels], const float* x, float value, int stride) {
  pin(x);
  const Vec weight = set1(value);
#pragma GCC unroll 16
  for (int p = 0; p < pixels; ++p) sums[p] = fma(load(x + p * (fixed > 0 ? fixed : stride) * width), weight, sums[p]);
}

template <int rows, int pixels, int fixed>
inline void step_apart(Vec (&sums)[rows][pixels], const float* panel, const std::uint16_t* offsets, const float* values,
                       int stride) {
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
    add_taps<pixels, fixed>(sums[r], panel + offset_of<rows>(offsets, r) * width, values[r], stride);
}

template <int rows, int pixels, int fixed>
inline void step_together(Vec (&sums)[rows][pixels], const float* panel, const std::uint16_t* offsets, const float* values,
                          int stride) {
  const float* x = panel + std::size_t{offsets[0]} * width;
  pin(x);
  Vec weight[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) weight[r] = set1(values[r]);
#pragma GCC unroll 16
  for (int p = 0; p < pixels; ++p) {
    const Vec input = load(x + p * (fixed > 0 ? fixed : stride) * width);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) sums[r][p] = fma(input, weight[r], sums[r][p]);
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

template <bool together, int rows, int pixels, int fixed>
void accumulate(const conv::Segment& segment, const float* panel, float* acc, int stride, bool first,
                conv::Ahead& ahead) noexcept {
  constexpr int offsets_a_step = together ? 1 : rows;
  const std::uint16_t* group = segment.groups;
  const std::uint16_t* offsets = segment.offsets;
  const float* values = segment.values;
  for (std::size_t left = segment.count; left > 0; --left, group += 1 + rows) {
    Vec sums[rows][pixels];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const float* at = sums_of<rows, pixels>(acc, group, r);
#pragma GCC unroll 16
      for (int p = 0; p < pixels; ++p) sums[r][p] = first ? zero() : load(at + p * width);
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
      if constexpr (together) step_together<rows, pixels, fixed>(sums, panel, offsets, values, stride);
      else step_apart<rows, pixels, fixed>(sums, panel, offsets, values, stride);
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      float* at = sums_of<rows, pixels>(acc, group, r);
#pragma GCC unroll 16
      for (int p = 0; p < pixels; ++p) store(at + p * width, sums[r][p]);
    }
  }
}

// Any distance between the columns: lane by lane.
template <int strip>
inline void copy_any(const float* from, int stride, unsigned keep, float* to) {
  for (int lane = 0; lane < strip; ++lane) to[lane] = keep >> lane & 1u ? from[lane * static_cast<std::ptrdiff_t>(stride)] : 0.0f;
}

template <int strip, int fixed>
inline void copy_row(const float* from, int stride, unsigned keep, float* to) {
  if constexpr (fixed == 1) copy_strip<strip>(from, keep, to);
  else if constexpr (fixed == 2) copy_even<strip>(from, keep, to);
  else copy_any<strip>(from, stride, keep, to);
}

template <int strip>
inline void clear_rows(float* to, int rows) {
  for (int r = 0; r < rows; ++r, to += width) clear_strip<strip>(to);
}

// One channel and kernel column of one strip: `panel_rows` rows of `strip` lanes, a vector apart, zeros outside the image.
template <int strip, int fixed>
inline void load_column(const conv::Input& input, const conv::Strip& s, const float* channel, int tap, float* to) {
  const conv::Lanes16 inside = s.inside[tap];
  const int above = s.top < 0 ? (-s.top < input.panel_rows ? -s.top : input.panel_rows) : 0;
  const int end = input.height - s.top < input.panel_rows ? input.height - s.top : input.panel_rows;  // rows of the image
  const bool last = s.top + end == input.height && end > above;
  const float* from = channel + (s.top + above) * input.row + s.left + static_cast<std::ptrdiff_t>(tap) * input.dilation;
  clear_rows<strip>(to, above);
  to += above * width;
  int r = above;
  for (; r < end - last; ++r, to += width, from += input.row) copy_row<strip, fixed>(from, input.stride, inside.all, to);
  if (last) {
    copy_row<strip, fixed>(from, input.stride, inside.last, to);
    ++r;
    to += width;
  }
  clear_rows<strip>(to, input.panel_rows - r);
}

template <int strip, int fixed>
void load_strips(const conv::Input& input, const conv::Strip* strips, int first, int channels, float* panel) {
  const std::size_t column = static_cast<std::size_t>(input.panel_rows) * width;
  for (int c = first; c < first + channels; ++c)
    for (int tap = 0; tap < input.taps; ++tap, panel += column)
      for (int part = 0; part < width / strip; ++part)
        load_column<strip, fixed>(input, strips[part], strips[part].x + c * input.channel, tap, panel + part * strip);
}

template <int strip>
void load_parts(const conv::Input& input, const conv::Strip* strips, int first, int channels, float* panel) {
  if (input.stride == 1) load_strips<strip, 1>(input, strips, first, channels, panel);
  else if (input.stride == 2) load_strips<strip, 2>(input, strips, first, channels, panel);
  else load_strips<strip, 0>(input, strips, first, channels, panel);
}

inline void load_image(const conv::Input& input, const conv::Strip* strips, int parts, int first, int channels,
                       float* panel) noexcept {
  if (parts == 1) return load_parts<width>(input, strips, first, channels, panel);
  if constexpr (width >= 8)
    if (parts == 2) return load_parts<width / 2>(input, strips, first, channels, panel);
  if constexpr (width >= 16) load_parts<width / 4>(input, strips, first, channels, panel);
}

template <conv::Activation activation>
inline Vec ending(Vec x) {
  using A = conv::Activation;
  if constexpr (activation == A::relu) return relu(x);
  if constexpr (activation == A::relu6) return min(set1(6.0f), relu(x));
  if constexpr (activation == A::silu) return silu(x);
  if constexpr (activation == A::gelu) return gelu_erf(x);
  if constexpr (activation == A::hardswish) {
    const Vec gate = min(set1(6.0f), max(zero(), add(x, set1(3.0f))));
    return mul(mul(x, gate), set1(1.0f / 6.0f));
  }
  return x;
}

template <conv::Activation activation>
void finish_strip(const conv::Output& output, const conv::Strip& s, std::ptrdiff_t at, const float* acc, Vec shift) {
  for (int r = 0; r < s.rows; ++r, at += output.row, acc += width) {
    const int columns = r == s.rows - 1 ? s.last_columns : s.columns;
    Vec sum = add(load_n(acc, columns), shift);
    if (s.residual != nullptr) sum = add(sum, load_n(s.residual + at, columns));
    store_n(s.y + at, ending<activation>(sum), columns);
  }
}

template <conv::Activation activation>
void finish_strips(const conv::Output& output, const conv::Strip* strips, int parts, int first, int rows, int pixels,
               const float* acc) {
  for (int o = first; o < first + rows; ++o, acc += pixels * width) {
    const Vec shift = output.bias == nullptr ? zero() : set1(output.bias[o]);
    for (int part = 0; part < parts; ++part)
      if (strips[part].y != nullptr)
        finish_strip<activation>(output, strips[part], o * output.channel, acc + part * (width / parts), shift);
  }
}

inline void finish_image(const conv::Output& output, const conv::Strip* strips, int parts, int first, int rows, int pixels,
                   const float* acc) noexcept {
  using A = conv::Activation;
  switch (output.activation) {
    case A::none: return finish_strips<A::none>(output, strips, parts, first, rows, pixels, acc);
    case A::relu: return finish_strips<A::relu>(output, strips, parts, first, rows, pixels, acc);
    case A::relu6: return finish_strips<A::relu6>(output, strips, parts, first, rows, pixels, acc);
    case A::silu: return finish_strips<A::silu>(output, strips, parts, first, rows, pixels, acc);
    case A::hardswish: return finish_strips<A::hardswish>(output, strips, parts, first, rows, pixels, acc);
    case A::gelu: return finish_strips<A::gelu>(output, strips, parts, first, rows, pixels, acc);
  }
}

inline void clear_lines(float* to, int lines) {
  for (int i = 0; i < lines; ++i) store(to + i * width, zero());
}

inline void load_lines(const conv::Lines& in, int first, int channels, float* panel) noexcept {
  const int before = in.left < 0 ? (-in.left < in.panel_rows ? -in.left : in.panel_rows) : 0;
  const int reach = in.width - in.left < in.panel_rows ? in.width - in.left : in.panel_rows;
  const int end = reach > before ? reach : before;
  for (int c = first; c < first + channels; ++c)
    for (int tap = 0; tap < in.taps; ++tap, panel += in.panel_rows * width) {
      const int row = in.top + tap * in.dilation;
      if (row < 0 || row >= in.height) {
        clear_lines(panel, in.panel_rows);
        continue;
      }
      const float* const from = in.x + c * in.channel + row * in.row + static_cast<std::ptrdiff_t>(in.left) * width;
      clear_lines(panel, before);
      for (int i = before; i < end; ++i) store(panel + i * width, load(from + i * width));
      clear_lines(panel + end * width, in.panel_rows - end);
    }
}

template <conv::Activation activation>
void finish_lines_as(const conv::LinesOut& out, int first, int rows, int pixels, const float* acc) {
  for (int o = first; o < first + rows; ++o, acc += pixels * width) {
    const Vec shift = out.bias == nullptr ? zero() : set1(out.bias[o]);
    const std::ptrdiff_t at = o * out.channel;
    for (int p = 0; p < out.pixels; ++p) {
      Vec sum = add(load(acc + p * width), shift);
      if (out.residual != nullptr) sum = add(sum, load(out.residual + at + p * width));
      store(out.y + at + p * width, ending<activation>(sum));
    }
  }
}

inline void finish_lines(const conv::LinesOut& out, int first, int rows, int pixels, const float* acc) noexcept {
  using A = conv::Activation;
  switch (out.activation) {
    case A::none: return finish_lines_as<A::none>(out, first, rows, pixels, acc);
    case A::relu: return finish_lines_as<A::relu>(out, first, rows, pixels, acc);
    case A::relu6: return finish_lines_as<A::relu6>(out, first, rows, pixels, acc);
    case A::silu: return finish_lines_as<A::silu>(out, first, rows, pixels, acc);
    case A::hardswish: return finish_lines_as<A::hardswish>(out, first, rows, pixels, acc);
    case A::gelu: return finish_lines_as<A::gelu>(out, first, rows, pixels, acc);
  }
}

inline void to_across(const float* images, std::ptrdiff_t size, int valid, int count, float* across) noexcept {
  load_column(images, size, valid, count, width, across);
}

inline void from_across(const float* across, std::ptrdiff_t size, int valid, int count, float* images) noexcept {
  const int whole = count / width * width;  // finish() reads whole vectors of pixels, and `across` may end at `count`
  finish(across, whole, width, valid, nullptr, Activation::none, images, size);
  for (int i = 0; i < valid; ++i)
    for (int pixel = whole; pixel < count; ++pixel) images[i * size + pixel] = across[pixel * width + i];
}

template <bool together, int rows, int pixels>
constexpr conv::Kernel make_conv(const char* name, Isa isa) {
  static_assert(pixels <= conv::most_pixels);
  return {name,
          isa,
          rows,
          pixels,
          together,
          width,
          {accumulate<together, rows, pixels, 1>, accumulate<together, rows, pixels, 2>, accumulate<together, rows, pixels, 0>},
          load_image,
          finish_image,
          load_lines,
          finish_lines,
          to_across,
          from_across};
}
