// The integer operations that 8-bit kernel bodies use, 4 sums in plain C++. Included after simd/scalar.h; see
// simd/ints_avx512.h and simd/dot_avx512.h for what each does.
struct Ints {
  std::int32_t lane[width];
};
constexpr bool exact_pairs = true;

template <class Function>
inline Ints each_int(Function f) {
  Ints out;
  for (int i = 0; i < width; ++i) out.lane[i] = f(i);
  return out;
}
inline int byte_of(std::int32_t word, int i) { return static_cast<int>(static_cast<std::uint32_t>(word) >> (8 * i) & 255u); }

inline Ints set_ints(std::int32_t x) { return each_int([&](int) { return x; }); }
inline Ints ints_zero() { return set_ints(0); }
inline Ints loadu_ints(const void* p) {
  Ints v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline Ints load_ints(const void* p) { return loadu_ints(p); }
inline void store_ints(void* p, Ints v) { __builtin_memcpy(p, &v, sizeof v); }
inline Ints add_ints(Ints a, Ints b) { return each_int([&](int i) { return a.lane[i] + b.lane[i]; }); }
inline Vec to_floats(Ints a) { return each([&](int i) { return static_cast<float>(a.lane[i]); }); }
inline Ints nearest(Vec a) {
  return each_int([&](int i) {
    return __builtin_fabsf(a.lane[i]) < 2147483648.0f ? static_cast<std::int32_t>(__builtin_nearbyintf(a.lane[i])) : INT32_MIN;
  });
}
inline int half_of(std::int32_t word, int i) { return static_cast<std::int16_t>(static_cast<std::uint32_t>(word) >> (16 * i)); }
inline Ints plus_products(Ints sum, Ints a, Ints b) {
  return each_int([&](int i) {
    return sum.lane[i] + half_of(a.lane[i], 0) * half_of(b.lane[i], 0) + half_of(a.lane[i], 1) * half_of(b.lane[i], 1);
  });
}
inline Ints dot4(Ints sum, Ints x, Ints w) {
  return each_int([&](int i) {
    std::int32_t s = sum.lane[i];
    for (int b = 0; b < 4; ++b) s += byte_of(x.lane[i], b) * static_cast<std::int8_t>(byte_of(w.lane[i], b));
    return s;
  });
}

inline void store_bytes_n(std::uint8_t* p, Ints v, int n) {
  for (int i = 0; i < n; ++i)
    p[i] = static_cast<std::uint8_t>(v.lane[i] < 0 ? 0 : v.lane[i] > 255 ? 255 : v.lane[i]);
}
inline void store_bytes(std::uint8_t* p, Ints v) { store_bytes_n(p, v, width); }
inline void store_bytes4(std::uint8_t* p, Ints a, Ints b, Ints c, Ints d) {
  store_bytes(p, a);
  store_bytes(p + width, b);
  store_bytes(p + 2 * width, c);
  store_bytes(p + 3 * width, d);
}

inline Ints gather4_words(const std::uint8_t* p, std::ptrdiff_t) { return loadu_ints(p); }
inline void transpose4(Ints& a, Ints& b, Ints& c, Ints& d) {
  const Ints rows[4] = {a, b, c, d};
  a = each_int([&](int i) { return rows[i].lane[0]; });
  b = each_int([&](int i) { return rows[i].lane[1]; });
  c = each_int([&](int i) { return rows[i].lane[2]; });
  d = each_int([&](int i) { return rows[i].lane[3]; });
}
// Byte j of word i of vector v, for (rows, words, vectors) turned into one another.
template <class From>
inline void turn_bytes(Ints& a, Ints& b, Ints& c, Ints& d, From from) {
  const Ints old[4] = {a, b, c, d};
  Ints* const to[4] = {&a, &b, &c, &d};
  for (int v = 0; v < 4; ++v)
    *to[v] = each_int([&](int i) {
      std::uint32_t word = 0;
      for (int j = 0; j < 4; ++j) word |= static_cast<std::uint32_t>(from(old, v, i, j)) << (8 * j);
      return static_cast<std::int32_t>(word);
    });
}
inline void interleave4(Ints& a, Ints& b, Ints& c, Ints& d) {  // row j, byte 4v + i
  turn_bytes(a, b, c, d, [](const Ints* rows, int v, int i, int j) { return byte_of(rows[j].lane[v], i); });
}
inline void separate4(Ints& a, Ints& b, Ints& c, Ints& d) {  // row v, byte 4i + j: word i of row v
  turn_bytes(a, b, c, d, [](const Ints* words, int v, int i, int j) { return byte_of(words[i].lane[j], v); });
}

inline Ints bytes_by_token(Ints a, Ints b, Ints c, Ints d) {
  return each_int([&](int i) {
    const auto byte = [i](Ints v) { return static_cast<std::uint32_t>(v.lane[i] < 0 ? 0 : v.lane[i] > 255 ? 255 : v.lane[i]); };
    return static_cast<std::int32_t>(byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24);
  });
}
inline void store_lanes(std::uint8_t* p, Ints v) { __builtin_memcpy(p, &v, 16); }
