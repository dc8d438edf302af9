// From sums to results: bias, residual, activation. Included after kernels/activation.h.

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

inline Vec ended(conv::Activation activation, Vec x) {
  using A = conv::Activation;
  switch (activation) {
    case A::none: return x;
    case A::relu: return ending<A::relu>(x);
    case A::relu6: return ending<A::relu6>(x);
    case A::silu: return ending<A::silu>(x);
    case A::hardswish: return ending<A::hardswish>(x);
    case A::gelu: return ending<A::gelu>(x);
  }
  return x;
}

template <conv::Activation activation>
void finish_strip(const conv::Output& output, const conv::Strip& s, std::ptrdiff_t at, const float* acc, Vec shift) {
  for (int r = 0; r < s.rows; ++r, at += output.row, acc += width) {
    const int columns = r == s.rows - 1 ? s.last_columns : s.columns;
    Vec sum = add(load_n(acc, columns), shift);
    if (output.residual != nullptr) sum = add(sum, load_n(output.residual + at, columns));
    store_n(output.y + at, ending<activation>(sum), columns);
  }
}

template <conv::Activation activation>
void finish_strips(const conv::Output& output, const conv::Strip* strips, int parts, int first, int rows, int pixels,
               const float* acc) {
  for (int o = first; o < first + rows; ++o, acc += pixels * width) {
    const Vec shift = output.bias == nullptr ? zero() : set1(output.bias[o]);
    for (int part = 0; part < parts; ++part)
      if (strips[part].at >= 0)
        finish_strip<activation>(output, strips[part], strips[part].at + o * output.channel, acc + part * (width / parts), shift);
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
