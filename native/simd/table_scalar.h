// Lanes picked out of the 2 x width floats of two vectors, by a byte each. Included after simd/scalar.h.
struct TableOfTwo {
  const float* values;
};
using Places = const unsigned char*;
inline TableOfTwo table_of(const float* p) { return {p}; }
inline Places places_at(const unsigned char* p) { return p; }
inline Vec pick(const TableOfTwo& t, Places places) {
  return each([&](int i) { return t.values[places[i]]; });
}
