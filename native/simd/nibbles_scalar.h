// Groups of 16 two's complement nibbles, as floats and against unsigned bytes; see simd/nibbles_avx512.h.
constexpr int at_once = 1;
struct Nibbles {
  std::int8_t at[16];
};

inline void list_groups(const unsigned char* mask, int bytes, std::uint32_t* to) {
  for (int i = 0; i < 8 * bytes; ++i)
    if (mask[i / 8] >> (i % 8) & 1) *to++ = static_cast<std::uint32_t>(16 * i);
  for (int i = 0; i < matvec4::behind; ++i) to[i] = 0;
}

inline int nibble_at(const unsigned char* p, int i) {
  const int code = p[i / 2] >> (4 * (i % 2)) & 15;
  return code < 8 ? code : code - 16;
}
inline Vec nibbles_to_floats(const unsigned char* p, int part) {
  return each([&](int i) { return static_cast<float>(nibble_at(p, width * part + i)); });
}
inline Nibbles load_nibbles(const unsigned char* p) {
  Nibbles w;
  for (int i = 0; i < 16; ++i) w.at[i] = static_cast<std::int8_t>(nibble_at(p, i));
  return w;
}
inline Vec dot_neighbours(const Nibbles& w, const std::uint8_t* x) {
  return each([&](int i) {
    int s = 0;
    for (int j = i; j < 16; j += width) s += w.at[j] * x[j];
    return static_cast<float>(s);
  });
}
inline Vec dot_groups(const Nibbles& w, const std::uint8_t* x, const std::uint32_t* at) {
  return dot_neighbours(w, x + *at);
}

template <bool wide>
inline void list_scales(const unsigned char* p, int groups, float* to) {
  for (int i = 0; i < groups; ++i) {
    std::uint16_t scale;
    __builtin_memcpy(&scale, p + 2 * (wide ? i / 2 : i), 2);
    to[i] = static_cast<float>(scale);
  }
  for (int i = groups; i < groups + matvec4::behind; ++i) to[i] = 0.0f;
}
inline Vec spread_scales(const float* p) { return set1(*p); }
