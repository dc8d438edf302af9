// Which floats of an array are not 0, and putting those together; see simd/select_avx512.h.

inline unsigned nonzero(const float* p, int n) {
  unsigned bits = 0;
  for (int i = 0; i < n; ++i) bits |= static_cast<unsigned>(p[i] != 0.0f) << i;
  return bits;
}

inline void put_named(unsigned bits, const float* p, float* to) {
  for (; bits != 0; bits &= bits - 1) *to++ = p[__builtin_ctz(bits)];
}

inline void put_numbers(unsigned bits, int first, std::int32_t* to) {
  for (; bits != 0; bits &= bits - 1) *to++ = first + __builtin_ctz(bits);
}
