// The vector operations that kernel bodies use, 8 floats wide. Included inside a target region and a namespace.
constexpr int width = 8;
using Vec = __m256;

// What is to stay in a register, and is not to be read again from where it came.
inline Vec on_its_own(Vec v) {
  __asm__("" : "+x"(v));
  return v;
}

inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec set1(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float* p) { return _mm256_load_ps(p); }
inline Vec loadu(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm256_store_ps(p, v); }
inline void storeu(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Vec load_n(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
inline void store_n(float* p, Vec v, int n) { _mm256_maskstore_ps(p, first_lanes(n), v); }
inline Vec keep_first(Vec v, int n) { return _mm256_and_ps(v, _mm256_castsi256_ps(first_lanes(n))); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
// a NaN in the second argument comes out, as in the instruction
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline Vec above_floor(Vec a) { return _mm256_sub_ps(a, _mm256_floor_ps(a)); }  // a - floor(a)
inline Vec scale2(Vec a, Vec n) {  // a * 2^floor(n) for n in [-126, 127]
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(_mm256_floor_ps(n)), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
}
inline Vec reciprocal(Vec a) { return _mm256_div_ps(_mm256_set1_ps(1.0f), a); }
inline float sum(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float largest(Vec a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

// Four floats, and one of them in every lane: for loops that are short of loads and not of shuffles.
using Floats4 = __m256;
inline Floats4 load_four(const float* p) { return on_its_own(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(p))); }
template <int i>
inline Vec of_four(Floats4 four) {
  return on_its_own(_mm256_permute_ps(four, i * 0x55));
}

// 0 where the byte of a mask is set (attend), -infinity where it is 0; lanes from n on are 0.
inline Vec allowed(const unsigned char* p, int n) {
  long long bytes = 0;
  if (n >= width)
    __builtin_memcpy(&bytes, p, 8);
  else
    for (int i = 0; i < n; ++i) bytes |= static_cast<long long>(p[i]) << (8 * i);
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes));
  const Vec hidden = _mm256_castsi256_ps(_mm256_cmpeq_epi32(lanes, _mm256_setzero_si256()));
  return keep_first(_mm256_and_ps(hidden, set1(-__builtin_inff())), n);
}

// Lane 4b + i of the result is p[(4b) * stride + i]: four neighbours from every fourth row.
inline Vec gather4(const float* p, long stride) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 4 * stride), 1);
}

// Transposes the 4x4 block in every 128-bit lane.
inline void transpose4(Vec& a, Vec& b, Vec& c, Vec& d) {
  const __m256d ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b)), ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
  const __m256d cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(c, d)), cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
  a = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low));
  b = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low));
  c = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
  d = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
}

// Sparse matrix x vector: lanes named by `bits` take consecutive floats of `packed` (which may be read 8 floats on).
struct Lanes {
  unsigned bits;
};
inline Lanes lanes(unsigned bits) { return {bits}; }
inline __m256i lane_mask(Lanes keep) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(keep.bits)), bit), bit);
}
inline Vec expand(Lanes keep, const float* packed) {
  // Byte i of `spread` is 0xff when lane i is kept; depositing 0, 1, 2... there numbers the kept lanes.
  const unsigned long long spread = _pdep_u64(keep.bits, 0x0101010101010101ull) * 0xff;
  const unsigned long long order = _pdep_u64(0x0706050403020100ull, spread);
  const __m256i index = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(order)));
  const Vec values = _mm256_permutevar8x32_ps(_mm256_loadu_ps(packed), index);
  return _mm256_and_ps(values, _mm256_castsi256_ps(lane_mask(keep)));
}
inline Vec fma_lanes(Lanes keep, Vec w, const float* p, Vec c) { return fma(w, _mm256_maskload_ps(p, lane_mask(keep)), c); }
#include "simd/picked.h"
inline Vec gather(const float* x, const unsigned short* index) { return picked8(x, reinterpret_cast<const unsigned char*>(index)); }
inline Vec gather(const float* x, const unsigned* index) {
  return _mm256_i32gather_ps(x, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)), 4);
}
