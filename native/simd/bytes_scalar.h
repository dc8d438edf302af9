// 64 signed bytes of weights times 64 unsigned bytes of inputs in plain C++; see simd/bytes_avx512.h.
struct Bytes {
  std::int8_t at[64];
};
using Sums = std::int32_t;  // 65536 products of 255 * 127 fit

inline Sums no_sums() { return 0; }
inline std::int64_t sum_of(Sums s) { return s; }
inline Bytes load_bytes(const unsigned char* p) {
  Bytes b;
  __builtin_memcpy(b.at, p, 64);
  return b;
}
inline Bytes expand_bytes(std::uint64_t mask, const unsigned char* p, int one, int two, int three) {
  const int starts[4] = {0, one, two, three};
  Bytes b;
  for (int i = 0, next = 0; i < 64; ++i) {
    if (i % 16 == 0) next = starts[i / 16];
    b.at[i] = mask >> i & 1 ? static_cast<std::int8_t>(p[next++]) : std::int8_t{0};
  }
  return b;
}
inline Sums dot_bytes(Sums s, const Bytes& w, const std::uint8_t* x) {
  for (int i = 0; i < 64; ++i) s += w.at[i] * x[i];
  return s;
}
