// From sums of products of bytes to results. Included after kernels/conv/endings.h and simd/words_*.h.

inline Ints to_byte(Vec y, Vec inverse, Ints zero) {  // not yet saturated
  // What passes 32 bits becomes the least integer, and so does a NaN; packing saturates.
  return add_ints(nearest(min(set1(1e9f), mul(y, inverse))), zero);
}

// Activations that only bound their argument: in bytes they are bounds too, and no step of their own.
template <conv::Activation activation>
constexpr bool bounds = activation == conv::Activation::none || activation == conv::Activation::relu ||
                        activation == conv::Activation::relu6;

// What turns sums of four output channels of one image into results, or with `in_steps` into results / scale + zero of the
// bytes that are made. residual: what a byte of the residual counts.
struct Factors {
  float scale[4], shift[4], residual, lower, upper;
  std::int32_t correction[4];

  Factors(const conv8::Output& o, int first, std::size_t image, conv::Activation activation, bool in_steps) {
    const float x_scale = o.scale[image * o.step], by = in_steps ? o.inverse : 1.0f;
    const float zero_point = static_cast<float>(o.to_zero), start = in_steps ? zero_point : 0.0f;
    const float without = o.residual_bytes == nullptr ? 0.0f : o.residual_scale * static_cast<float>(o.residual_zero);
    residual = o.residual_scale * by;
    lower = activation == conv::Activation::none ? 0.0f : zero_point;
    upper = activation == conv::Activation::relu6 && 6.0f * by + start < 255.0f ? 6.0f * by + start : 255.0f;
    for (int i = 0; i < 4; ++i) {
      const float bias = o.bias == nullptr || first + i >= o.channels ? 0.0f : o.bias[first + i];
      scale[i] = o.weight_scale[first + i] * x_scale * by;
      shift[i] = (bias - without) * by + start;
      correction[i] = -o.zero[image * o.step] * o.sums[first + i];
    }
  }
};

// The same, a vector for each channel.
struct Four {
  Vec scale[4], shift[4], residual, lower, upper;
  Ints correction[4];

  explicit Four(const Factors& f) : residual(set1(f.residual)), lower(set1(f.lower)), upper(set1(f.upper)) {
    for (int i = 0; i < 4; ++i) {
      scale[i] = set1(f.scale[i]);
      shift[i] = set1(f.shift[i]);
      correction[i] = set_ints(f.correction[i]);
    }
  }
  Vec result(int i, Ints sum) const { return fma(to_floats(add_ints(sum, correction[i])), scale[i], shift[i]); }
};

// A vector of pixels, of which `columns` are there.
template <conv::Activation activation>
inline void finish_floats(const conv8::Output& o, const Four& four, int channels, std::ptrdiff_t at, int columns,
                          const Ints (&sums)[4]) {
  for (int i = 0; i < channels; ++i, at += o.channel) {
    Vec y = four.result(i, sums[i]);
    if (o.residual != nullptr) y = add(y, load_n(o.residual + at, columns));
    store_n(o.y + at, ending<activation>(y), columns);
  }
}

template <conv::Activation activation>
inline void finish_bytes(const conv8::Output& o, const Four& four, std::ptrdiff_t at, int columns, const Ints (&sums)[4]) {
  Ints residual = ints_zero();
  if (o.residual_bytes != nullptr) residual = load_words_n(o.residual_bytes + 4 * at, columns);
  Ints q[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    Vec y = four.result(i, sums[i]);
    if (o.residual_bytes != nullptr) y = fma(to_floats(byte_lane(residual, i)), four.residual, y);
    if constexpr (bounds<activation>) q[i] = nearest(max(four.lower, min(four.upper, y)));
    else q[i] = to_byte(ending<activation>(y), set1(o.inverse), set_ints(o.to_zero));
  }
  store_words_n(o.bytes + 4 * at, bytes_by_token(q[0], q[1], q[2], q[3]), columns);
}

// The outputs [first, first + channels) of one strip; far: floats between their sums.
template <conv::Activation activation>
void finish_strip8(const conv8::Output& o, const conv::Strip& s, int first, int channels, std::size_t far, const float* sums) {
  const Four four(Factors(o, first, s.image, activation, o.y == nullptr && bounds<activation>));
  std::ptrdiff_t at = s.at + (o.y == nullptr ? first / 4 : first) * o.channel;
  for (int r = 0; r < s.rows; ++r, at += o.row, sums += width) {
    const int columns = r == s.rows - 1 ? s.last_columns : s.columns;
    Ints here[4];
    for (int i = 0; i < 4; ++i) here[i] = load_words_n(sums + i * far, columns);
    if (o.y == nullptr) finish_bytes<activation>(o, four, at, columns, here);
    else finish_floats<activation>(o, four, channels, at, columns, here);
  }
}

template <conv::Activation activation>
void finish_words(const conv8::Output& o, const conv::Strip* strips, int parts, int first, int rows, int pixels, const float* sums) {
  const std::size_t far = static_cast<std::size_t>(pixels) * width;
  for (int done = 0; done < rows; done += 4, sums += 4 * far)
    for (int part = 0; part < parts; ++part)
      if (strips[part].at >= 0)
        finish_strip8<activation>(o, strips[part], first + done, rows - done < 4 ? rows - done : 4, far, sums + part * (width / parts));
}

inline void finish_image8(const conv8::Output& o, const conv::Strip* strips, int parts, int first, int rows, int pixels,
                          const float* sums) noexcept {
  using A = conv::Activation;
  switch (o.activation) {
    case A::none: return finish_words<A::none>(o, strips, parts, first, rows, pixels, sums);
    case A::relu: return finish_words<A::relu>(o, strips, parts, first, rows, pixels, sums);
    case A::relu6: return finish_words<A::relu6>(o, strips, parts, first, rows, pixels, sums);
    case A::silu: return finish_words<A::silu>(o, strips, parts, first, rows, pixels, sums);
    case A::hardswish: return finish_words<A::hardswish>(o, strips, parts, first, rows, pixels, sums);
    case A::gelu: return finish_words<A::gelu>(o, strips, parts, first, rows, pixels, sums);
  }
}
