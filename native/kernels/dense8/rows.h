// Between floats and bytes: the end of a product, and the start of one. Included after simd and ints headers.

template <Activation activation, bool to_bytes>
void finish_as(const dense8::Finish& f) {
  for (int t = 0; t < f.tokens; ++t) {
    const Vec input_scale = set1(f.input_scale[t * f.step]);
    const std::int32_t zero_point = f.input_zero[t * f.step];
    const std::int32_t* sums = f.sums + t * f.sums_stride;
    for (int o = 0; o < f.outputs; o += width) {
      const int used = f.outputs - o < width ? f.outputs - o : width;
      const Vec exact = to_floats(subtract_product(load_ints(sums + o), load_ints(f.weight_sums + o), zero_point));
      const Vec scale = mul(input_scale, loadu(f.weight_scale + o));
      const Vec shift = f.bias == nullptr ? zero() : used == width ? loadu(f.bias + o) : load_n(f.bias + o, used);
      const Vec value = activate<activation>(fma(exact, scale, shift));
      if constexpr (to_bytes)
        store_bytes(f.bytes + t * f.y_stride + o, mul(value, set1(f.per_step)), f.zero, used);
      else if (used == width)
        storeu(f.y + t * f.y_stride + o, value);
      else
        store_n(f.y + t * f.y_stride + o, value, used);
    }
  }
}

template <bool to_bytes>
void finish_to(const dense8::Finish& f) {
  switch (f.activation) {
    case Activation::none: return finish_as<Activation::none, to_bytes>(f);
    case Activation::relu: return finish_as<Activation::relu, to_bytes>(f);
    case Activation::gelu: return finish_as<Activation::gelu, to_bytes>(f);
    case Activation::gelu_tanh: return finish_as<Activation::gelu_tanh, to_bytes>(f);
    case Activation::silu: return finish_as<Activation::silu, to_bytes>(f);
  }
}

inline void finish(const dense8::Finish& f) noexcept {
  if (f.bytes != nullptr) return finish_to<true>(f);
  finish_to<false>(f);
}

// x / scale is rounded as x * (1 / scale): the difference is a step where it lies within an ulp of a half.
inline void quantise_row(const float* x, int features, int padded, float scale, std::int32_t zero,
                         std::uint8_t* to) noexcept {
  const Vec per_step = set1(1.0f / scale);
  int k = 0;
  for (; k + width <= features; k += width) store_bytes(to + k, mul(loadu(x + k), per_step), zero, width);
  if (k < features) store_bytes(to + k, mul(load_n(x + k, features - k), per_step), zero, features - k);
  for (k = features; k < padded; ++k) to[k] = 0;
}

// An infinity or a NaN in the row makes its scale, and so every result of the row, a NaN. A row of next to nothing is zero.
inline void range_of_row(const float* x, int features, float* scale, std::int32_t* zero_point) noexcept {
  const Vec none = zero();
  Vec high = none, low = none, poison = none;  // low: of the negated row
  for (int k = 0; k < features; k += width) {
    const Vec v = features - k < width ? load_n(x + k, features - k) : loadu(x + k);
    high = max(high, v);
    low = max(low, sub(none, v));
    poison = fma(v, none, poison);
  }
  const float top = largest(high), bottom = -largest(low), span = top - bottom;
  const float step = span > 1e-30f ? span / 255.0f : 1.0f;
  const float offset = __builtin_rintf(-bottom / step);
  *scale = step + sum(poison);
  *zero_point = offset > 0.0f ? offset < 255.0f ? static_cast<std::int32_t>(offset) : 255 : 0;
}
