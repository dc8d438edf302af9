// The end of a product whose sums are floats. Included after a simd header and the activations.

template <Activation activation>
void finish_as(const dense::Finish& given) {
  const dense::Finish f = given;  // a copy stays in registers: stores of results might change what a reference names
  for (int o = 0; o < f.outputs; o += width) {
    const int used = f.outputs - o < width ? f.outputs - o : width;
    const Vec shift = f.bias == nullptr ? zero() : load_n(f.bias + o, used);
    for (int t = 0; t < f.tokens; ++t) {
      const float* const sums = reinterpret_cast<const float*>(f.sums + t * f.sums_stride + o);
      store_n(f.y + t * f.y_stride + o, activate<activation>(add(loadu(sums), shift)), used);
    }
  }
}

inline void finish(const dense::Finish& f) noexcept {
  switch (f.activation) {
    case Activation::none: return finish_as<Activation::none>(f);
    case Activation::relu: return finish_as<Activation::relu>(f);
    case Activation::gelu: return finish_as<Activation::gelu>(f);
    case Activation::gelu_tanh: return finish_as<Activation::gelu_tanh>(f);
    case Activation::silu: return finish_as<Activation::silu>(f);
    case Activation::relu2: return finish_as<Activation::relu2>(f);
  }
}
