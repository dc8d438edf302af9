// Inputs as signed bytes, by the largest of a token. Included after simd/avx512.h, select_avx512.h and dot_vnni.h.

// What a token's inputs were divided by, and the sum of their bytes.
struct Rounded {
  float scale;
  std::int32_t sum;
};

// The values of a token as bytes; a scale that is no number where one of them is none or infinite.
inline Rounded round_values(const float* x, int count, std::int8_t* to) {
  Vec most = zero(), odd = zero();
  for (int i = 0; i < count; i += width) {
    const Vec v = load_n(x + i, count - i < width ? count - i : width);
    most = max(most, abs(v));
    odd = add(odd, sub(v, v));  // 0, or no number
  }
  const float largest_one = largest(most), broken = sum(odd);
  const float by = largest_one > 1e-30f && broken == 0.0f ? 127.0f / largest_one : 0.0f;
  Ints total = ints_zero();
  for (int i = 0; i < count; i += width) {
    const Ints q = nearest(mul(load_n(x + i, count - i < width ? count - i : width), set1(by)));
    total = add_ints(total, q);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm512_cvtsepi32_epi8(q));
  }
  return {largest_one / 127.0f + broken, _mm512_reduce_add_epi32(total)};
}
