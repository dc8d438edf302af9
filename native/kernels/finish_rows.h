// The end of a product of few tokens: bias and activation over rows [first, last) of each token. Included after
// simd/<isa>.h and activation.h.

template <Activation activation>
inline void finish_rows_as(const RowOutput& output, int first, int last, int tokens) {
  for (int t = 0; t < tokens; ++t)
    for (int row = first; row < last; row += width) {
      const int used = last - row < width ? last - row : width;
      float* at = output.y + t * output.stride + row;
      const Vec shift = output.bias == nullptr ? zero() : load_n(output.bias + row, used);
      store_n(at, activate<activation>(add(load_n(at, used), shift)), used);
    }
}

inline void finish_rows(const RowOutput& output, int first, int last, int tokens) {
  if (output.bias == nullptr && output.activation == Activation::none) return;
  switch (output.activation) {
    case Activation::none: return finish_rows_as<Activation::none>(output, first, last, tokens);
    case Activation::relu: return finish_rows_as<Activation::relu>(output, first, last, tokens);
    case Activation::gelu: return finish_rows_as<Activation::gelu>(output, first, last, tokens);
    case Activation::gelu_tanh: return finish_rows_as<Activation::gelu_tanh>(output, first, last, tokens);
    case Activation::silu: return finish_rows_as<Activation::silu>(output, first, last, tokens);
    case Activation::relu2: return finish_rows_as<Activation::relu2>(output, first, last, tokens);
  }
}
