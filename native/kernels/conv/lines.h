// Images across the lanes: into the panel, to results, and the way into that layout and back.

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
