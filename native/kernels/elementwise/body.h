// Entry by entry arithmetic, written once over the simd operations and compiled for each instruction set.

template <class Operation>
inline void each_span(const float* a, const float* b, std::ptrdiff_t count, float* y, Operation&& of) noexcept {
  std::ptrdiff_t i = 0;
  for (; i + width <= count; i += width) storeu(y + i, of(loadu(a + i), loadu(b + i)));
  if (const int n = static_cast<int>(count - i); n > 0) store_n(y + i, of(load_n(a + i, n), load_n(b + i, n)), n);
}

struct Sum {  // no lambdas here: parts of them would be compiled outside the target region
  Vec operator()(Vec a, Vec b) const { return add(a, b); }
};
struct Product {
  Vec operator()(Vec a, Vec b) const { return mul(a, b); }
};
template <Activation activation>
struct Activated {
  Vec operator()(Vec v, Vec) const { return activate<activation>(v); }
};

inline void add_spans(const float* a, const float* b, std::ptrdiff_t count, float* y) noexcept {
  each_span(a, b, count, y, Sum{});
}

inline void multiply_spans(const float* a, const float* b, std::ptrdiff_t count, float* y) noexcept {
  each_span(a, b, count, y, Product{});
}

template <Activation activation>
void activate_span(const float* x, std::ptrdiff_t count, float* y) noexcept {
  each_span(x, x, count, y, Activated<activation>{});
}

inline void activate_as(Activation activation, const float* x, std::ptrdiff_t count, float* y) noexcept {
  switch (activation) {
    case Activation::none: return activate_span<Activation::none>(x, count, y);
    case Activation::relu: return activate_span<Activation::relu>(x, count, y);
    case Activation::gelu: return activate_span<Activation::gelu>(x, count, y);
    case Activation::gelu_tanh: return activate_span<Activation::gelu_tanh>(x, count, y);
    case Activation::silu: return activate_span<Activation::silu>(x, count, y);
    case Activation::relu2: return activate_span<Activation::relu2>(x, count, y);
  }
}
