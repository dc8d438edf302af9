// Finding the range of a row and rounding it to bytes, written once over the simd operations.

inline void range(const float* x, int n, float* low, float* high, float* poison) noexcept {
  Vec least[4], most[4], wrong[4];
  for (int v = 0; v < 4; ++v) least[v] = most[v] = wrong[v] = zero();
  int i = 0;
  for (; i + 4 * width <= n; i += 4 * width)
    for (int v = 0; v < 4; ++v) {
      const Vec a = loadu(x + i + v * width);
      least[v] = min(a, least[v]);  // of a NaN and a number, the instruction gives the second
      most[v] = max(a, most[v]);
      wrong[v] = fma(a, zero(), wrong[v]);
    }
  for (; i < n; i += width) {
    const Vec a = load_n(x + i, n - i < width ? n - i : width);
    least[0] = min(a, least[0]);
    most[0] = max(a, most[0]);
    wrong[0] = fma(a, zero(), wrong[0]);
  }
  const Vec down = min(min(least[0], least[1]), min(least[2], least[3]));
  *low = -largest(sub(zero(), down));
  *poison = sum(add(add(wrong[0], wrong[1]), add(wrong[2], wrong[3])));
  *high = largest(max(max(most[0], most[1]), max(most[2], most[3])));
}

// What passes 32 bits becomes the least integer, and so does a NaN; storing saturates.
inline Ints rounded(Vec x, Vec inverse, Ints shift) { return add_ints(nearest(min(set1(1e9f), mul(x, inverse))), shift); }

// One factor for all entries, or one for each.
struct Same {
  Vec inverse;
  Vec at(int) const { return inverse; }
  Vec at_n(int, int) const { return inverse; }
};
struct Each {
  const float* inverse;
  Vec at(int i) const { return loadu(inverse + i); }
  Vec at_n(int i, int n) const { return load_n(inverse + i, n); }
};

template <class Factors>
inline void round_by(const float* x, int n, Factors by, std::int32_t zero_point, std::uint8_t* q) noexcept {
  const Ints shift = set_ints(zero_point);
  const auto whole = [&](int at) { return rounded(loadu(x + at), by.at(at), shift); };
  int i = 0;
  for (; i + 4 * width <= n; i += 4 * width)
    store_bytes4(q + i, whole(i), whole(i + width), whole(i + 2 * width), whole(i + 3 * width));
  for (; i + width <= n; i += width) store_bytes(q + i, whole(i));
  if (i < n) store_bytes_n(q + i, rounded(load_n(x + i, n - i), by.at_n(i, n - i), shift), n - i);
}

inline void round_row(const float* x, int n, float inverse, std::int32_t zero_point, std::uint8_t* q) noexcept {
  round_by(x, n, Same{set1(inverse)}, zero_point, q);
}

inline void round_each(const float* x, int n, const float* inverse, std::int32_t zero_point, std::uint8_t* q) noexcept {
  round_by(x, n, Each{inverse}, zero_point, q);
}
