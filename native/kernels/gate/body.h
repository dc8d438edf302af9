// act(gate) * up, written once over the simd operations and compiled for each instruction set.

template <Activation activation>
inline void gate_as(const float* from, int features, float* y) noexcept {
  for (int i = 0; i < features; i += width) {
    const int n = features - i < width ? features - i : width;
    const Vec v = mul(activate<activation>(load_n(from + i, n)), load_n(from + features + i, n));
    store_n(y + i, v, n);
  }
}

inline void gate_multiply(const float* from, int features, Activation activation, float* y) noexcept {
  switch (activation) {
    case Activation::none: return gate_as<Activation::none>(from, features, y);
    case Activation::relu: return gate_as<Activation::relu>(from, features, y);
    case Activation::gelu: return gate_as<Activation::gelu>(from, features, y);
    case Activation::gelu_tanh: return gate_as<Activation::gelu_tanh>(from, features, y);
    case Activation::silu: return gate_as<Activation::silu>(from, features, y);
    case Activation::relu2: return gate_as<Activation::relu2>(from, features, y);
  }
}
