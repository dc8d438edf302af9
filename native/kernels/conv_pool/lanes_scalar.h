// The larger of two, a NaN where either is one; every other float of 2 * width.
inline Vec larger(Vec a, Vec b) {
  return each([&](int i) { return a.lane[i] > b.lane[i] || a.lane[i] != a.lane[i] ? a.lane[i] : b.lane[i]; });
}
inline Vec load_even(const float* p) { return each([&](int i) { return p[2 * i]; }); }
