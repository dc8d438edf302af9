// The activations that a linear layer may end in. Included (once per instruction set) after a simd header.
// Absolute error against float64 stays below 1e-6 for |x| up to 1e3 (tests/native/test_activation.py).

// 2^x for x in [-126, 126]: 2^floor(x) times a degree-5 polynomial in what is above it (greatest relative error 8e-8).
inline Vec exp2_of(Vec x) {
  const Vec f = above_floor(x);
  Vec p = set1(1.877576608e-3f);
  p = fma(p, f, set1(8.989340253e-3f));
  p = fma(p, f, set1(5.582631792e-2f));
  p = fma(p, f, set1(2.401536171e-1f));
  p = fma(p, f, set1(6.931530732e-1f));
  p = fma(p, f, set1(0.9999999251f));
  return scale2(p, x);
}

inline Vec relu(Vec x) { return max(zero(), x); }

inline Vec relu2(Vec x) { return mul(relu(x), relu(x)); }

// x / (1 + e^-u). Where e^-u reaches 2^126 the quotient is 0 to within 1e-30: x is bounded so that it is 0 for any x.
inline Vec gated(Vec x, Vec u) {
  const Vec power = mul(u, set1(-1.4426950409f));
  const Vec e = exp2_of(max(set1(-126.0f), min(set1(126.0f), power)));
  return mul(max(set1(-1e6f), x), reciprocal(add(set1(1.0f), e)));
}

inline Vec silu(Vec x) { return gated(x, x); }

inline Vec gelu_tanh(Vec x) {  // x/2 (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3))) = x / (1 + e^(-2u))
  const Vec bounded = max(set1(-30.0f), min(set1(30.0f), x));
  const Vec cubic = fma(mul(mul(bounded, bounded), bounded), set1(0.044715f), bounded);
  return gated(x, mul(cubic, set1(1.5957691216f)));
}

// h(a) = erfc(a / sqrt 2) / 2 = 2^p(a) for a in [0, 6.5]: log2 of h is smooth, so a polynomial of degree 8 gives 6e-8.
// There -35 < p < -1, as exp2_of needs.
inline Vec half_erfc_by_exponent(Vec a) {
  Vec p = set1(-2.013122819e-7f);
  p = fma(p, a, set1(2.751688078e-6f));
  p = fma(p, a, set1(2.038932138e-5f));
  p = fma(p, a, set1(-7.449466423e-4f));
  p = fma(p, a, set1(8.066884833e-3f));
  p = fma(p, a, set1(-5.342558821e-2f));
  p = fma(p, a, set1(-4.587511610e-1f));
  p = fma(p, a, set1(-1.151209161f));
  p = fma(p, a, set1(-0.9999922972f));
  return exp2_of(p);
}

#ifdef RAREFY_HAS_PICK32
#include "kernels/half_erfc.h"
inline Vec half_erfc(Vec a) { return half_erfc_by_table(a); }
#else
inline Vec half_erfc(Vec a) { return half_erfc_by_exponent(a); }
#endif

// max(x, 0) - |x| h(|x|); beyond 6.5 the second term is below 3e-10.
inline Vec gelu_erf(Vec x) {
  const Vec a = min(abs(x), set1(6.5f));
  return sub(relu(x), mul(a, half_erfc(a)));
}

template <Activation activation>
inline Vec activate(Vec x) {
  if constexpr (activation == Activation::relu) return relu(x);
  if constexpr (activation == Activation::gelu) return gelu_erf(x);
  if constexpr (activation == Activation::gelu_tanh) return gelu_tanh(x);
  if constexpr (activation == Activation::silu) return silu(x);
  if constexpr (activation == Activation::relu2) return relu2(x);
  return x;
}

// Calls what is made for one activation: f.operator()<activation>().
template <class Function>
inline void with_activation(Activation activation, Function f) {
  switch (activation) {
    case Activation::none: return f.template operator()<Activation::none>();
    case Activation::relu: return f.template operator()<Activation::relu>();
    case Activation::gelu: return f.template operator()<Activation::gelu>();
    case Activation::gelu_tanh: return f.template operator()<Activation::gelu_tanh>();
    case Activation::silu: return f.template operator()<Activation::silu>();
    case Activation::relu2: return f.template operator()<Activation::relu2>();
  }
}
