// From sums (rows, tokens of the widest tile) to results (tokens, rows). Included after a simd/dot header and kernels/activation.h.

// Hides from the compiler where a pointer leads.
template <class T>
inline void pin([[maybe_unused]] const T*& address) {
#if defined(__x86_64__)
  __asm__("" : "+r"(address));
#endif
}

inline const std::uint8_t* address(const std::int32_t* p) { return reinterpret_cast<const std::uint8_t*>(p); }

// Floats: turned to vectors of rows first, four tokens of `width` rows at a time, then scaled.
struct ToFloats {
  const Vec weight_scale, shift;
  const Ints sums;
  const std::int32_t* const zero;
  const float* const scale;

  template <Activation activation>
  Vec result(Ints sum, int t) const {
    const Ints exact = plus_products(sum, sums, set_ints(zero[t]));
    return activate<activation>(fma(to_floats(exact), mul(weight_scale, set1(scale[t])), shift));
  }
};

template <Activation activation, int tokens>
void finish_floats(const std::int32_t* acc, int valid, int used, const ToFloats& f, float* y, std::ptrdiff_t stride) {
  constexpr std::ptrdiff_t row = tokens * 4;
  for (int t = 0; t < valid; t += 4, y += 4 * stride) {
    Ints s[4];
    for (int i = 0; i < 4; ++i) s[i] = gather4_words(address(acc + t) + i * row, row);
    transpose4(s[0], s[1], s[2], s[3]);
    if (used == width && t + 4 <= valid) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) storeu(y + i * stride, f.result<activation>(s[i], t + i));
    } else {
      for (int i = 0; i < 4 && t + i < valid; ++i) store_n(y + i * stride, f.result<activation>(s[i], t + i), used);
    }
  }
}

// Bytes: scaled and rounded while the lanes are tokens, then turned, a fourth of the size.
struct ToBytes {
  const float* weight_scale;  // these four of 16 rows
  const std::int32_t* sums;
  const float* bias;
  const float* inverse;
  const Ints shift;

  template <Activation activation>
  Ints result(Ints sum, int row, Ints zero, Vec scale) const {
    const Ints exact = plus_products(sum, zero, set_ints(sums[row]));
    const Vec y = fma(to_floats(exact), mul(scale, set1(weight_scale[row])), set1(bias[row]));
    // What passes 32 bits becomes the least integer, and so does a NaN; packing saturates.
    return add_ints(nearest(min(set1(1e9f), mul(activate<activation>(y), set1(inverse[row])))), shift);
  }
};

// 16 rows of `width` tokens; to: (tokens, 16).
template <Activation activation, int tokens>
inline void bytes_of_rows(const std::int32_t* acc, ToBytes f, Ints zero, Vec scale, std::uint8_t* to) {
  pin(f.weight_scale);  // else the 16 rows' values are kept in registers from one call to the next, and spilled
  pin(f.sums);
  pin(f.bias);
  pin(f.inverse);
  Ints fours[4];  // of four rows each: in a 128-bit lane, four bytes of rows for each of its tokens
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    Ints q[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
      q[r] = f.result<activation>(load_ints(acc + (4 * i + r) * tokens), 4 * i + r, zero, scale);
    fours[i] = bytes_by_token(q[0], q[1], q[2], q[3]);
  }
  transpose4(fours[0], fours[1], fours[2], fours[3]);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) store_lanes(to + 16 * i, fours[i]);  // lane l: token 4 l + i
}

template <Activation activation, int tokens>
void finish_bytes(const std::int32_t* acc, int valid, int used, const ToBytes& f, const block8::Epilogue& e,
                  std::uint8_t* to, std::ptrdiff_t stride) {
  alignas(64) std::uint8_t turned[16 * width];
  for (int t = 0; t < valid; t += width) {
    bytes_of_rows<activation, tokens>(acc + t, f, loadu_ints(e.zero + t), loadu(e.scale + t), turned);
    const int here = valid - t < width ? valid - t : width;
    for (int i = 0; i < here; ++i)
      used == 16 ? __builtin_memcpy(to + (t + i) * stride, turned + 16 * i, 16)
                 : __builtin_memcpy(to + (t + i) * stride, turned + 16 * i, static_cast<std::size_t>(used));
  }
}

template <Activation activation, int tokens>
void finish_as(const std::int32_t* acc, int rows, int valid, const block8::Epilogue& e, const block8::Destination& to) {
  if (to.y != nullptr) {
    for (int row = 0; row < rows; row += width, acc += width * tokens) {
      const int used = rows - row < width ? rows - row : width;
      const ToFloats f{loadu(e.weight_scale + row), e.bias == nullptr ? zero() : load_n(e.bias + row, used),
                       loadu_ints(e.sums + row), e.zero, e.scale};
      finish_floats<activation, tokens>(acc, valid, used, f, to.y + row, to.stride);
    }
    return;
  }
  for (int row = 0; row < rows; row += 16, acc += 16 * tokens) {
    const int used = rows - row < 16 ? rows - row : 16;
    float bias[16] = {}, inverse[16];
    for (float& each : inverse) each = to.inverse;
    if (to.inverses != nullptr) __builtin_memcpy(inverse, to.inverses + row, static_cast<std::size_t>(used) * sizeof(float));
    if (e.bias != nullptr) __builtin_memcpy(bias, e.bias + row, static_cast<std::size_t>(used) * sizeof(float));
    const ToBytes f{e.weight_scale + row, e.sums + row, bias, inverse, set_ints(to.zero)};
    finish_bytes<activation, tokens>(acc, valid, used, f, e, to.bytes + row, to.stride);
  }
}

template <int tokens>
void finish(const std::int32_t* acc, int rows, int valid, const block8::Epilogue& e,
                   const block8::Destination& to) noexcept {
  switch (e.activation) {
    case Activation::none: return finish_as<Activation::none, tokens>(acc, rows, valid, e, to);
    case Activation::relu: return finish_as<Activation::relu, tokens>(acc, rows, valid, e, to);
    case Activation::gelu: return finish_as<Activation::gelu, tokens>(acc, rows, valid, e, to);
    case Activation::gelu_tanh: return finish_as<Activation::gelu_tanh, tokens>(acc, rows, valid, e, to);
    case Activation::silu: return finish_as<Activation::silu, tokens>(acc, rows, valid, e, to);
    case Activation::relu2: return finish_as<Activation::relu2, tokens>(acc, rows, valid, e, to);
  }
}
