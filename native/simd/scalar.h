// The vector operations that kernel bodies use, 4 floats in plain C++: the portable instance, and the oracle's neighbour.
constexpr int width = 4;
struct Vec {
  float lane[width];
};

// RAREFY_QUAD: for a test that compiles what other machines run (tests/native/test_sources.py)
#if defined(__aarch64__) || defined(RAREFY_QUAD)
#define RAREFY_QUADS
// The same 4 floats in a register (NEON), which the compiler seldom finds out by itself. Not where there are instances for
// the CPU's own instruction sets: GCC would take minutes for the kernels that are unrolled most.
typedef float Quad __attribute__((vector_size(sizeof(Vec))));
inline Quad quad(Vec v) { return __builtin_bit_cast(Quad, v); }
inline Vec vec(Quad f) { return __builtin_bit_cast(Vec, f); }
#endif

template <class Function>
inline Vec each(Function f) {
  Vec out;
  for (int i = 0; i < width; ++i) out.lane[i] = f(i);
  return out;
}

inline Vec set1(float x) { return each([&](int) { return x; }); }
inline Vec on_its_own(Vec v) { return v; }
// Four floats, and one of them in every lane. They may lie in bytes that hold other types too: copied, never pointed to.
struct Floats4 {
  float at[4];
};
inline Floats4 load_four(const float* p) {
  Floats4 four;
  __builtin_memcpy(&four, p, sizeof four);
  return four;
}
template <int i>
inline Vec of_four(Floats4 four) {
  return set1(four.at[i]);
}
inline Vec zero() { return set1(0.0f); }
inline Vec loadu(const float* p) { return each([&](int i) { return p[i]; }); }
inline Vec load(const float* p) { return loadu(p); }
inline void store_n(float* p, Vec v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v.lane[i];
}
inline void storeu(float* p, Vec v) { store_n(p, v, width); }
inline void store(float* p, Vec v) { storeu(p, v); }
inline Vec load_n(const float* p, int n) { return each([&](int i) { return i < n ? p[i] : 0.0f; }); }
inline Vec keep_first(Vec v, int n) { return each([&](int i) { return i < n ? v.lane[i] : 0.0f; }); }
#ifdef RAREFY_QUADS
inline Vec add(Vec a, Vec b) { return vec(quad(a) + quad(b)); }
inline Vec sub(Vec a, Vec b) { return vec(quad(a) - quad(b)); }
inline Vec mul(Vec a, Vec b) { return vec(quad(a) * quad(b)); }
inline Vec fma(Vec a, Vec b, Vec c) { return vec(quad(a) * quad(b) + quad(c)); }
#else
inline Vec add(Vec a, Vec b) { return each([&](int i) { return a.lane[i] + b.lane[i]; }); }
inline Vec sub(Vec a, Vec b) { return each([&](int i) { return a.lane[i] - b.lane[i]; }); }
inline Vec mul(Vec a, Vec b) { return each([&](int i) { return a.lane[i] * b.lane[i]; }); }
inline Vec fma(Vec a, Vec b, Vec c) { return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; }); }
#endif
// a NaN in the second argument comes out, as in the instruction of the other instances
inline Vec max(Vec a, Vec b) { return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; }); }
inline Vec min(Vec a, Vec b) { return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; }); }
inline Vec abs(Vec a) { return each([&](int i) { return __builtin_fabsf(a.lane[i]); }); }
inline float floor_of(float x) {  // for |x| < 2^31; a NaN stays one in the caller's arithmetic
  const float whole = static_cast<float>(static_cast<int>(x == x ? x : 0.0f));
  return whole > x ? whole - 1.0f : whole;
}
inline Vec above_floor(Vec a) { return each([&](int i) { return a.lane[i] - floor_of(a.lane[i]); }); }
inline Vec scale2(Vec a, Vec n) {  // a * 2^floor(n) for n in [-126, 127]
  return each([&](int i) {
    return a.lane[i] * __builtin_bit_cast(float, (static_cast<int>(floor_of(n.lane[i])) + 127) << 23);
  });
}
inline Vec reciprocal(Vec a) { return each([&](int i) { return 1.0f / a.lane[i]; }); }
inline float sum(Vec a) { return (a.lane[0] + a.lane[1]) + (a.lane[2] + a.lane[3]); }
inline float largest(Vec a) {
  float m = a.lane[0];
  for (int i = 1; i < width; ++i) m = a.lane[i] > m ? a.lane[i] : m;
  return m;
}

// 0 where the byte of a mask is set (attend), -infinity where it is 0; lanes from n on are 0.
inline Vec allowed(const unsigned char* p, int n) {
  return each([&](int i) { return i < n && p[i] == 0 ? -__builtin_inff() : 0.0f; });
}

inline Vec gather4(const float* p, long) { return loadu(p); }  // one block of four rows: see the wider instances

inline void transpose4(Vec& a, Vec& b, Vec& c, Vec& d) {
  const Vec rows[4] = {a, b, c, d};
  a = each([&](int i) { return rows[i].lane[0]; });
  b = each([&](int i) { return rows[i].lane[1]; });
  c = each([&](int i) { return rows[i].lane[2]; });
  d = each([&](int i) { return rows[i].lane[3]; });
}

struct Lanes {
  unsigned bits;
};
inline Lanes lanes(unsigned bits) { return {bits}; }
inline Vec expand(Lanes keep, const float* packed) {
  int next = 0;
  return each([&](int i) { return keep.bits >> i & 1u ? packed[next++] : 0.0f; });
}
inline Vec fma_lanes(Lanes keep, Vec w, const float* p, Vec c) {
  return each([&](int i) { return keep.bits >> i & 1u ? c.lane[i] + w.lane[i] * p[i] : c.lane[i]; });
}
template <class Index>
inline Vec gather(const float* x, const Index* index) {
  return each([&](int i) { return x[index[i]]; });
}
