// Which floats of an array are not 0, and putting those together; see simd/select_avx512.h.

inline unsigned nonzero(const float* p, int n) {
  const Vec v = n < width ? load_n(p, n) : loadu(p);
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(v, zero(), _CMP_NEQ_UQ)));
}

inline void put_named(unsigned bits, const float* p, float* to) {
  for (; bits != 0; bits &= bits - 1) *to++ = p[__builtin_ctz(bits)];
}

inline void put_numbers(unsigned bits, int first, std::int32_t* to) {
  for (; bits != 0; bits &= bits - 1) *to++ = first + __builtin_ctz(bits);
}
