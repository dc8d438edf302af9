// The integer operations beside simd/scalar.h: 4 lanes in plain C++.
struct Ints {
  std::int32_t lane[width];
};

inline Ints load_ints(const std::int32_t* p) {
  Ints out;
  for (int i = 0; i < width; ++i) out.lane[i] = p[i];
  return out;
}
// a - b * c, modulo 2^32
inline Ints subtract_product(Ints a, Ints b, std::int32_t c) {
  Ints out;
  for (int i = 0; i < width; ++i)
    out.lane[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a.lane[i]) -
                                            static_cast<std::uint32_t>(b.lane[i]) * static_cast<std::uint32_t>(c));
  return out;
}
inline Ints no_ints() { return {}; }
inline Ints add_ints(Ints a, Ints b) {
  Ints out;
  for (int i = 0; i < width; ++i)
    out.lane[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(a.lane[i]) + static_cast<std::uint32_t>(b.lane[i]));
  return out;
}
inline Vec to_floats(Ints a) { return each([&](int i) { return static_cast<float>(a.lane[i]); }); }

// The first n lanes, rounded to nearest (ties to even), plus zero, saturated to bytes.
inline void store_bytes(std::uint8_t* p, Vec v, std::int32_t zero, int n) {
  for (int i = 0; i < n; ++i) {
    const float shifted = __builtin_rintf(v.lane[i]) + static_cast<float>(zero);
    p[i] = shifted > 0.0f ? shifted < 255.0f ? static_cast<std::uint8_t>(shifted) : 255 : 0;
  }
}
inline void store_32_bytes(std::uint8_t* p, const Vec (&v)[8], std::int32_t zero) {
  for (int i = 0; i < 8; ++i) store_bytes(p + 4 * i, v[i], zero, 4);
}
