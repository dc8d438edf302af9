// From sums (rows, tokens) to results (tokens, rows). Included after a simd/dot header and kernels/activation.h.

// Four tokens of `width` rows: acc (rows, tokens) in, vectors of rows out.
inline void rows_of_tokens(const std::int32_t* acc, int tokens, Ints (&out)[4]) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(acc);
  for (int i = 0; i < 4; ++i) out[i] = gather4_words(bytes + static_cast<std::size_t>(i) * tokens * 4, static_cast<std::ptrdiff_t>(tokens) * 4);
  transpose4(out[0], out[1], out[2], out[3]);
}

inline void put(const block8::Destination& to, std::ptrdiff_t at, Vec y, int used) {
  if (to.y != nullptr) return used == width ? storeu(to.y + at, y) : store_n(to.y + at, y, used);
  const Vec lowest = set1(static_cast<float>(-to.zero)), highest = set1(static_cast<float>(255 - to.zero));
  const Ints q = add_ints(nearest(max(lowest, min(highest, mul(y, set1(to.inverse))))), set_ints(to.zero));
  used == width ? store_bytes(to.bytes + at, q) : store_bytes_n(to.bytes + at, q, used);
}

template <Activation activation>
void finish_as(const std::int32_t* acc, int rows, int tokens, int valid, const block8::Epilogue& e, const block8::Destination& to) {
  for (int row = 0; row < rows; row += width, acc += static_cast<std::size_t>(width) * tokens) {
    const int used = rows - row < width ? rows - row : width;
    const Vec weight_scale = loadu(e.weight_scale + row), shift = e.bias == nullptr ? zero() : load_n(e.bias + row, used);
    const Ints sums = loadu_ints(e.sums + row);
    for (int t = 0; t < valid; t += 4) {
      Ints s[4];
      rows_of_tokens(acc + t, tokens, s);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if (t + i >= valid) break;
        const std::ptrdiff_t of = (t + i) * e.step;
        const Ints sum = less_products(s[i], sums, set_ints(e.zero[of] * ((128 << 16) + 1)));
        const Vec y = fma(to_floats(sum), mul(weight_scale, set1(e.scale[of])), shift);
        put(to, (t + i) * to.stride + row, activate<activation>(y), used);
      }
    }
  }
}

inline void finish(const std::int32_t* acc, int rows, int tokens, int valid, const block8::Epilogue& e,
                   const block8::Destination& to) noexcept {
  switch (e.activation) {
    case Activation::none: return finish_as<Activation::none>(acc, rows, tokens, valid, e, to);
    case Activation::relu: return finish_as<Activation::relu>(acc, rows, tokens, valid, e, to);
    case Activation::gelu: return finish_as<Activation::gelu>(acc, rows, tokens, valid, e, to);
    case Activation::gelu_tanh: return finish_as<Activation::gelu_tanh>(acc, rows, tokens, valid, e, to);
    case Activation::silu: return finish_as<Activation::silu>(acc, rows, tokens, valid, e, to);
  }
}
