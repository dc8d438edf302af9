// The activations that a linear layer may end in. Included (once per instruction set) after a simd header.
// Absolute error against float64 stays below 1e-6 for |x| up to 1e3 (tests/native/test_activation.py).

// 2^x: x = n + f, |f| <= 1/2, a degree-6 polynomial in f (least maximum error, 2e-9) and an exponent shift.
inline Vec exp2_of(Vec x) {
  x = max(set1(-126.0f), min(set1(126.0f), x));
  const Vec n = round(x), f = sub(x, n);
  Vec p = set1(1.534581156e-4f);
  p = fma(p, f, set1(1.339993122e-3f));
  p = fma(p, f, set1(9.618488959e-3f));
  p = fma(p, f, set1(5.550328777e-2f));
  p = fma(p, f, set1(2.402264689e-1f));
  p = fma(p, f, set1(6.931472057e-1f));
  p = fma(p, f, set1(1.0f));
  return scale2(p, n);
}

inline Vec relu(Vec x) { return max(zero(), x); }

// x / (1 + e^-u). Below -126 / log2(e) the quotient is 0 to within 1e-30: x is bounded there, so that it is 0 for any x.
inline Vec gated(Vec x, Vec u) {
  const Vec e = exp2_of(mul(u, set1(-1.4426950409f)));
  return divide(max(set1(-1e6f), x), add(set1(1.0f), e));
}

inline Vec silu(Vec x) { return gated(x, x); }

inline Vec gelu_tanh(Vec x) {  // x/2 (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3))) = x / (1 + e^(-2u))
  const Vec bounded = max(set1(-30.0f), min(set1(30.0f), x));
  const Vec cubic = fma(mul(mul(bounded, bounded), bounded), set1(0.044715f), bounded);
  return gated(x, mul(cubic, set1(1.5957691216f)));
}

// gelu(x) = max(x, 0) - |x| h(|x|) with h(a) = erfc(a / sqrt 2) / 2 = 2^p(a): log2 of h is smooth, so a degree-9
// polynomial fitted on [0, 6.5] gives 5e-8; beyond 6.5 the term is below 3e-10.
inline Vec gelu_erf(Vec x) {
  const Vec a = min(abs(x), set1(6.5f));
  Vec p = set1(8.047422287e-8f);
  p = fma(p, a, set1(-2.167247387e-6f));
  p = fma(p, a, set1(2.222538877e-5f));
  p = fma(p, a, set1(-8.067355718e-5f));
  p = fma(p, a, set1(-4.470726575e-4f));
  p = fma(p, a, set1(7.558163005e-3f));
  p = fma(p, a, set1(-5.293190122e-2f));
  p = fma(p, a, set1(-4.590064786e-1f));
  p = fma(p, a, set1(-1.151148083f));
  p = fma(p, a, set1(-0.9999970509f));
  return sub(relu(x), mul(a, exp2_of(p)));
}

template <Activation activation>
inline Vec activate(Vec x) {
  if constexpr (activation == Activation::relu) return relu(x);
  if constexpr (activation == Activation::gelu) return gelu_erf(x);
  if constexpr (activation == Activation::gelu_tanh) return gelu_tanh(x);
  if constexpr (activation == Activation::silu) return silu(x);
  return x;
}
