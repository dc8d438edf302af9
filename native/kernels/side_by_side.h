// Floats that lie side by side, each in all lanes of a vector in its turn. Included after simd/<isa>.h.

// By a load each, which needs nothing else where loads are plenty.
template <int n>
struct ByLoads {
  const float* values;
  explicit ByLoads(const float* p) : values(p) {}
  Vec in_all_lanes(int i) const { return set1(values[i]); }
};

// By a load for four, and a shuffle each: Zen 4 has one 512-bit load a cycle, and next to nothing to do for its shuffles.
template <int n>
struct ByShuffles {
  static_assert(n % 4 == 0);
  Floats4 fours[n / 4];
  explicit ByShuffles(const float* p) {
#pragma GCC unroll 4
    for (int i = 0; i < n / 4; ++i) fours[i] = load_four(p + 4 * i);
  }
  Vec in_all_lanes(int i) const {
    const Floats4 four = fours[i / 4];
    return i % 4 == 0 ? of_four<0>(four) : i % 4 == 1 ? of_four<1>(four) : i % 4 == 2 ? of_four<2>(four) : of_four<3>(four);
  }
};
