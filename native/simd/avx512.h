// The vector operations that kernel bodies use, 16 floats wide. Included inside a target region and a namespace.
constexpr int width = 16;
using Vec = __m512;

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_load_ps(p); }
inline Vec loadu(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm512_store_ps(p, v); }
inline void storeu(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline Vec load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store_n(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
inline Vec keep_first(Vec v, int n) { return _mm512_maskz_mov_ps(first_lanes(n), v); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// a NaN in the second argument comes out, as in the instruction
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec abs(Vec a) { return _mm512_abs_ps(a); }
inline Vec above_floor(Vec a) { return _mm512_reduce_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }  // a - floor(a)
inline Vec scale2(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }  // a * 2^floor(n)
inline Vec reciprocal(Vec a) {  // 14 bits from the table, 24 after one Newton step
  const Vec r = _mm512_rcp14_ps(a);
  return _mm512_mul_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(2.0f)));
}
inline float sum(Vec a) { return _mm512_reduce_add_ps(a); }
inline float largest(Vec a) { return _mm512_reduce_max_ps(a); }

// 0 where the byte of a mask is set (attend), -infinity where it is 0; lanes from n on are 0.
inline Vec allowed(const unsigned char* p, int n) {
  const __m128i bytes = _mm_maskz_loadu_epi8(first_lanes(n), p);
  const __mmask16 hidden = _mm_testn_epi8_mask(bytes, bytes) & first_lanes(n);
  return _mm512_maskz_mov_ps(hidden, set1(-__builtin_inff()));
}

// The entry of 32 that each lane's lowest five bits number.
#define RAREFY_HAS_PICK32
inline Vec pick32(const float* table, Vec numbers) {
  return _mm512_permutex2var_ps(_mm512_load_ps(table), _mm512_castps_si512(numbers), _mm512_load_ps(table + 16));
}

// Lane 4b + i of the result is p[(4b) * stride + i]: four neighbours from every fourth row.
inline Vec gather4(const float* p, long stride) {
  Vec v = _mm512_castps128_ps512(_mm_loadu_ps(p));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(p + 4 * stride), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(p + 8 * stride), 2);
  return _mm512_insertf32x4(v, _mm_loadu_ps(p + 12 * stride), 3);
}

// Transposes the 4x4 block in every 128-bit lane.
inline void transpose4(Vec& a, Vec& b, Vec& c, Vec& d) {
  const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
  const __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d)), cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
  a = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low));
  b = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low));
  c = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
  d = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
}

// Sparse matrix x vector: lanes named by `bits` take consecutive floats of `packed` (which may be read 16 floats on).
using Lanes = __mmask16;
inline Lanes lanes(unsigned bits) {  // written out: GCC 12 would move each use of the bits to a mask register anew
  Lanes keep;
  __asm__("kmovw %1, %0" : "=k"(keep) : "r"(bits));
  return keep;
}
// What is expanded is loaded on its own: from memory, as the compiler would have it, Zen 4 takes nearly twice as long.
template <class Register>
inline Register on_its_own(Register v) {
  __asm__("" : "+v"(v));
  return v;
}
// Zeros in a register that the compiler knows nothing of. Zen 4's expansions and compressions wait for what their
// destination held last, under a mask of zeros too: they merge into a register that is cleared, which waits for nothing.
inline __m512i cleared() { return on_its_own(_mm512_setzero_si512()); }
// Four floats, and one of them in every lane: for loops that are short of loads and not of shuffles.
using Floats4 = __m512;
inline Floats4 load_four(const float* p) { return on_its_own(_mm512_broadcast_f32x4(_mm_loadu_ps(p))); }
template <int i>
inline Vec of_four(Floats4 four) {
  return on_its_own(_mm512_permute_ps(four, i * 0x55));
}
inline Vec expand(Lanes keep, const float* packed) {
  return _mm512_mask_expand_ps(_mm512_castsi512_ps(cleared()), keep, on_its_own(_mm512_loadu_ps(packed)));
}
// c + w * p in the lanes that are kept; what else p names is not read. Written out: a load under a mask of its own, as the
// compiler would have it, costs Zen 4 more than all the rest.
inline Vec fma_lanes(Lanes keep, Vec w, const float* p, Vec c) {
  __asm__("vfmadd231ps %2, %1, %0%{%3%}" : "+v"(c) : "v"(w), "m"(*reinterpret_cast<const __m512_u*>(p)), "Yk"(keep));
  return c;
}
// c + w * p, p read by the instruction itself: loads that the compiler shares among rows put their sums in one long chain.
inline Vec fma_from(Vec w, const float* p, Vec c) {
  __asm__("vfmadd231ps %2, %1, %0" : "+v"(c) : "v"(w), "m"(*reinterpret_cast<const __m512_u*>(p)));
  return c;
}
#include "simd/picked.h"
inline Vec picked16(const float* x, const unsigned char* places) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(picked8(x, places)), picked8(x, places + 16), 1);
}
inline Vec gather(const float* x, const unsigned short* index) { return picked16(x, reinterpret_cast<const unsigned char*>(index)); }
inline Vec gather(const float* x, const unsigned* index) { return _mm512_i32gather_ps(_mm512_loadu_si512(index), x, 4); }
