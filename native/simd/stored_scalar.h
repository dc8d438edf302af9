// Weights stored as floats, bfloat16 or bytes, as vectors of floats; see simd/stored_avx512.h.

template <Stored stored>
inline float stored_at(const unsigned char* p, int i) {
  if constexpr (stored == Stored::fp32) {
    float value;
    __builtin_memcpy(&value, p + 4 * i, 4);
    return value;
  } else if constexpr (stored == Stored::bf16) {
    std::uint16_t high;
    __builtin_memcpy(&high, p + 2 * i, 2);
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(high) << 16);
  } else {
    return static_cast<float>(static_cast<std::int8_t>(p[i]));
  }
}

template <Stored stored>
inline Vec load_stored(const unsigned char* p) {
  return each([&](int i) { return stored_at<stored>(p, i); });
}

template <Stored stored>
inline Vec expand_stored(Lanes keep, unsigned, const unsigned char* p) {
  int next = 0;
  return each([&](int i) { return keep.bits >> i & 1u ? stored_at<stored>(p, next++) : 0.0f; });
}

using Used = Lanes;
inline Used used_lanes(Lanes keep, Vec) { return keep; }
inline Vec fma_used(Used used, Vec w, const float* x, Vec c) { return fma_lanes(used, w, x, c); }
inline Vec fma_kept(Used used, Vec w, Vec x, Vec c) {
  return each([&](int i) { return used.bits >> i & 1u ? c.lane[i] + w.lane[i] * x.lane[i] : c.lane[i]; });
}

inline Vec gather_at(const float* x, const unsigned char* columns) {
  return each([&](int i) {
    std::uint16_t column;
    __builtin_memcpy(&column, columns + 2 * i, 2);
    return x[column];
  });
}
