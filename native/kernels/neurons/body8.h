// Chosen rows x few tokens of bytes. Included after body.h, simd/dot_vnni.h and kernels/rounded.h.
//
// Weights are made unsigned by adding 128 (8 to 4-bit ones), which puts that times the sum of the inputs into every dot
// product: it is taken out at the end (of 4-bit rows at the start of every sum, for each has a scale of its own).

inline const std::int8_t* inputs_of(const unsigned char* rounded) { return reinterpret_cast<const std::int8_t*>(rounded + 64); }
inline Rounded rounding_of(const unsigned char* rounded) {
  Rounded by;
  __builtin_memcpy(&by, rounded, sizeof by);
  return by;
}

// The four bytes in word 4 k + v of a line of 128 4-bit values, as simd/packed4 has them, become those in byte v of the
// words 4 k ... 4 k + 3: four inputs of one scale, the even scales' in the low nibbles.
inline Ints by_scale(Ints line) {
  const Ints order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  return _mm512_shuffle_epi8(line, order);
}

// A run of 128 inputs: those of even scales and those of odd ones as by_scale has the weights, then -8 times the sums of four.
inline void put_run(const std::int8_t* x, unsigned char* to) {
  for (int k = 0; k < 4; ++k)
    for (int v = 0; v < 4; ++v)
      for (int odd = 0; odd < 2; ++odd) {
        const std::int8_t* const from = x + 32 * v + 16 * odd + 4 * k;
        unsigned char* const at = to + 64 * odd + 16 * k + 4 * v;
        __builtin_memcpy(at, from, 4);
        const std::int32_t start = -8 * (from[0] + from[1] + from[2] + from[3]);
        __builtin_memcpy(at + 128, &start, 4);
      }
}

template <Stored stored>
void round_inputs(const float* x, int in, unsigned char* to) noexcept {
  __builtin_memset(to, 0, neurons::rounded_bytes(stored, in));
  if constexpr (stored == Stored::int8) {
    const Rounded by = round_values(x, in, reinterpret_cast<std::int8_t*>(to + 64));
    __builtin_memcpy(to, &by, sizeof by);
  } else {
    // Behind the room that the runs take at first are the bytes in their own order; a run is never read behind where it goes.
    const int runs = (in + neurons::run_inputs - 1) / neurons::run_inputs;
    std::int8_t* const bytes = reinterpret_cast<std::int8_t*>(to + 64 + std::size_t(runs) * neurons::run_inputs);
    const Rounded by = round_values(x, in, bytes);
    __builtin_memcpy(to, &by, sizeof by);
    for (int run = 0; run < runs; ++run) {
      alignas(64) std::int8_t own[neurons::run_inputs];
      __builtin_memcpy(own, bytes + std::ptrdiff_t{run} * neurons::run_inputs, sizeof own);
      put_run(own, to + 64 + std::ptrdiff_t{run} * 256);
    }
  }
}

// Two chains of sums: one alone waits for itself.
template <int tokens>
inline void dot_row8(const neurons::Rows& w, const std::int32_t* list, int count, int i, const unsigned char* const (&x)[tokens],
                     float (&dots)[tokens]) {
  const unsigned char* const row = w.bytes + list[i] * w.stride;
  const Ahead next(w, list, count, i);
  const Ints flip = _mm512_set1_epi8(-128);
  Ints chains[2][tokens];
  for (int t = 0; t < tokens; ++t) chains[0][t] = chains[1][t] = ints_zero();
  const std::ptrdiff_t lines = static_cast<std::ptrdiff_t>(w.stride / 64);
  std::ptrdiff_t line = 0;
  const auto add_line = [&](std::ptrdiff_t l, Ints (&chain)[tokens]) {
    next.fetch(static_cast<std::size_t>(l) * 64);
    const Ints weights = _mm512_xor_si512(loadu_ints(row + l * 64), flip);
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t) chain[t] = dot4(chain[t], weights, loadu_ints(inputs_of(x[t]) + l * 64));
  };
  for (; line + 2 <= lines; line += 2) add_line(line, chains[0]), add_line(line + 1, chains[1]);
  if (line < lines) add_line(line, chains[0]);
  for (int t = 0; t < tokens; ++t) {
    const Rounded by = rounding_of(x[t]);
    const std::int32_t all = _mm512_reduce_add_epi32(add_ints(chains[0][t], chains[1][t]));
    dots[t] = by.scale * static_cast<float>(all - 128 * by.sum);
  }
}

template <int tokens>
inline void dot_row4(const neurons::Rows& w, const std::int32_t* list, int count, int i, const unsigned char* const (&x)[tokens],
                     float (&dots)[tokens]) {
  const unsigned char* const row = w.bytes + list[i] * w.stride;
  const Ahead next(w, list, count, i);
  const Ints flip = _mm512_set1_epi8(static_cast<char>(0x88)), nibble = _mm512_set1_epi8(15), half = set_ints(0xffff);
  Vec even[tokens], odd[tokens];
  for (int t = 0; t < tokens; ++t) even[t] = odd[t] = zero();
  const int runs = (w.in + neurons::run_inputs - 1) / neurons::run_inputs;
  for (int run = 0; run < runs; ++run) {
    const std::ptrdiff_t at = std::ptrdiff_t{run} * neurons::run_bytes;
    next.fetch(static_cast<std::size_t>(at)), next.fetch(static_cast<std::size_t>(at) + neurons::run_bytes - 1);
    const Ints both = by_scale(_mm512_xor_si512(loadu_ints(row + at), flip));
    const Ints low = _mm512_and_si512(both, nibble), high = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
    const Ints scales = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + at + neurons::run_bytes - 16)));
    const Vec even_scales = to_floats(_mm512_and_si512(scales, half)), odd_scales = to_floats(_mm512_srli_epi32(scales, 16));
#pragma GCC unroll 4
    for (int t = 0; t < tokens; ++t) {
      const unsigned char* const own = x[t] + 64 + std::ptrdiff_t{run} * 256;
      even[t] = fma(to_floats(dot4(loadu_ints(own + 128), low, loadu_ints(own))), even_scales, even[t]);
      odd[t] = fma(to_floats(dot4(loadu_ints(own + 192), high, loadu_ints(own + 64))), odd_scales, odd[t]);
    }
  }
  for (int t = 0; t < tokens; ++t) dots[t] = rounding_of(x[t]).scale * sum(add(even[t], odd[t]));
}

template <Stored stored, int tokens>
inline void put_row8(const neurons::Rows& w, const std::int32_t* list, int count, int i, const unsigned char* x, const float* bias,
                     float* y, std::ptrdiff_t stride) {
  const unsigned char* at[tokens];
  float dots[tokens];
  for (int t = 0; t < tokens; ++t) at[t] = x + t * neurons::rounded_bytes(stored, w.in);
  if constexpr (stored == Stored::int4) dot_row4<tokens>(w, list, count, i, at, dots);
  else dot_row8<tokens>(w, list, count, i, at, dots);
  const std::int32_t row = list[i];
  for (int t = 0; t < tokens; ++t) y[t * stride + row] = w.scales[row] * dots[t] + (bias == nullptr ? 0.0f : bias[row]);
}

template <Stored stored>
void multiply_bytes(const neurons::Rows& w, const std::int32_t* list, int count, const unsigned char* x, std::ptrdiff_t tokens,
                    const float* bias, float* y, std::ptrdiff_t stride) noexcept {
  const std::size_t each = neurons::rounded_bytes(stored, w.in);
  for (int i = 0; i < count; ++i) {
    std::ptrdiff_t t = 0;
    for (; t + 4 <= tokens; t += 4) put_row8<stored, 4>(w, list, count, i, x + t * each, bias, y + t * stride, stride);
    for (; t < tokens; ++t) put_row8<stored, 1>(w, list, count, i, x + t * each, bias, y + t * stride, stride);
  }
}
