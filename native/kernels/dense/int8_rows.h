// Between floats and bytes: the end of a product, and the start of one. Included after simd and ints headers.

// What belongs to a vector of outputs.
struct Column {
  Ints sums;
  Vec scale, shift, per_step;
};

// `used` outputs' of an array, or the one value of all where there is none.
inline Vec of_outputs(const float* array, float all, int o, int used) {
  return array == nullptr ? set1(all) : used == width ? loadu(array + o) : load_n(array + o, used);
}

// same: one scale and zero point for all tokens, so that both are multiplied in once.
template <bool same>
inline Column column_of(const dense::Finish& f, int o, int used) {
  Column c{load_ints(f.weight_sums + o), loadu(f.weight_scale + o),
           of_outputs(f.bias, 0.0f, o, used), of_outputs(f.per_steps, f.per_step, o, used)};
  if constexpr (same) {
    c.sums = subtract_product(no_ints(), c.sums, *f.input_zero);
    c.scale = mul(c.scale, set1(*f.input_scale));
  }
  return c;
}

template <bool same>
inline Vec value_of(const dense::Finish& f, const Column& c, int t, int o) {
  const Ints sums = load_ints(f.sums + t * f.sums_stride + o);
  if constexpr (same) return fma(to_floats(add_ints(sums, c.sums)), c.scale, c.shift);
  const Vec exact = to_floats(subtract_product(sums, c.sums, f.input_zero[t * f.step]));
  return fma(exact, mul(set1(f.input_scale[t * f.step]), c.scale), c.shift);
}

template <Activation activation, bool to_bytes, bool same>
void finish_as(const dense::Finish& given) {
  const dense::Finish f = given;  // a copy stays in registers: stores of results might change what a reference names
  constexpr int together = 32 / width;  // vectors: two blocks
  int o = 0;
  for (; o + 32 <= f.outputs; o += 32) {
    Column columns[together];
#pragma GCC unroll 8
    for (int v = 0; v < together; ++v) columns[v] = column_of<same>(f, o + v * width, width);
    for (int t = 0; t < f.tokens; ++t) {
      Vec values[together];
#pragma GCC unroll 8
      for (int v = 0; v < together; ++v) {
        values[v] = activate<activation>(value_of<same>(f, columns[v], t, o + v * width));
        if constexpr (to_bytes) values[v] = mul(values[v], columns[v].per_step);
      }
      if constexpr (to_bytes)
        store_32_bytes(f.bytes + t * f.y_stride + o, values, f.zero);
      else
#pragma GCC unroll 8
        for (int v = 0; v < together; ++v) storeu(f.y + t * f.y_stride + o + v * width, values[v]);
    }
  }
  for (; o < f.outputs; o += width) {
    const int used = f.outputs - o < width ? f.outputs - o : width;
    const Column column = column_of<same>(f, o, used);
    for (int t = 0; t < f.tokens; ++t) {
      const Vec value = activate<activation>(value_of<same>(f, column, t, o));
      if constexpr (to_bytes)
        store_bytes(f.bytes + t * f.y_stride + o, mul(value, column.per_step), f.zero, used);
      else
        store_n(f.y + t * f.y_stride + o, value, used);
    }
  }
}

template <Activation activation>
void finish_with(const dense::Finish& f) {
  if (f.bytes != nullptr) return f.step == 0 ? finish_as<activation, true, true>(f) : finish_as<activation, true, false>(f);
  f.step == 0 ? finish_as<activation, false, true>(f) : finish_as<activation, false, false>(f);
}

inline void finish(const dense::Finish& f) noexcept {
  switch (f.activation) {
    case Activation::none: return finish_with<Activation::none>(f);
    case Activation::relu: return finish_with<Activation::relu>(f);
    case Activation::gelu: return finish_with<Activation::gelu>(f);
    case Activation::gelu_tanh: return finish_with<Activation::gelu_tanh>(f);
    case Activation::silu: return finish_with<Activation::silu>(f);
    case Activation::relu2: return finish_with<Activation::relu2>(f);
  }
}

// x / scale is rounded as x * (1 / scale): the difference is a step where it lies within an ulp of a half.
inline void quantise_row(const float* x, int features, int padded, float scale, std::int32_t zero,
                         std::uint8_t* to) noexcept {
  const Vec per_step = set1(1.0f / scale);
  int k = 0;
  for (; k + 32 <= features; k += 32) {
    Vec values[32 / width];
#pragma GCC unroll 8
    for (int v = 0; v < 32 / width; ++v) values[v] = mul(loadu(x + k + v * width), per_step);
    store_32_bytes(to + k, values, zero);
  }
  for (; k + width <= features; k += width) store_bytes(to + k, mul(loadu(x + k), per_step), zero, width);
  if (k < features) store_bytes(to + k, mul(load_n(x + k, features - k), per_step), zero, features - k);
  for (k = features; k < padded; ++k) to[k] = 0;
}

// An infinity or a NaN in the row makes its scale, and so every result of the row, a NaN.
inline void range_of_row(const float* x, int features, float* scale, std::int32_t* zero_point) noexcept {
  const Vec none = zero();
  Vec high = none, low = none, poison = none;
  Vec high_too = none, low_too = none, poison_too = none;  // a second chain: one alone waits for its own latency
  int k = 0;
  for (; k + 2 * width <= features; k += 2 * width) {
    const Vec a = loadu(x + k), b = loadu(x + k + width);
    high = max(high, a);
    low = min(low, a);
    poison = fma(a, none, poison);
    high_too = max(high_too, b);
    low_too = min(low_too, b);
    poison_too = fma(b, none, poison_too);
  }
  for (; k < features; k += width) {
    const Vec v = features - k < width ? load_n(x + k, features - k) : loadu(x + k);
    high = max(high, v);
    low = min(low, v);
    poison = fma(v, none, poison);
  }
  const float top = largest(max(high, high_too)), bottom = -largest(sub(none, min(low, low_too)));
  poison = add(poison, poison_too);
  // As native/ops/quantise.cc: halves first, and no denormal, so that neither the width nor the inverse overflows.
  const float width_of_step = top / 255.0f - bottom / 255.0f, least = 1.17549435e-38f;
  const float step = top == bottom ? 1.0f : width_of_step > least ? width_of_step : least;
  const float offset = __builtin_rintf(-bottom * (1.0f / step));
  *scale = step + sum(poison);
  *zero_point = offset > 0.0f ? offset < 255.0f ? static_cast<std::int32_t>(offset) : 255 : 0;
}
