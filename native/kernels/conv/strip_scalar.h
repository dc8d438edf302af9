// A row of a strip into the panel: lanes named by `keep`, `outside` elsewhere. copy_even takes every other float. Floats
// are moved as bytes: they may be other words.
inline void move_word(float* to, const float* from) { __builtin_memcpy(to, from, sizeof(float)); }
template <int strip>
inline void copy_strip(const float* from, unsigned keep, float outside, float* to) {
  for (int lane = 0; lane < strip; ++lane) move_word(to + lane, keep >> lane & 1u ? from + lane : &outside);
}
template <int strip>
inline void copy_even(const float* from, unsigned keep, float outside, float* to) {
  for (int lane = 0; lane < strip; ++lane) move_word(to + lane, keep >> lane & 1u ? from + 2 * lane : &outside);
}
// strip_or, even_or give whole vectors; even_of reads all floats.
inline Vec strip_or(const float* from, unsigned keep, float outside) {
  Vec v;
  copy_strip<width>(from, keep, outside, v.lane);
  return v;
}
inline Vec even_or(const float* from, unsigned keep, float outside) {
  Vec v;
  copy_even<width>(from, keep, outside, v.lane);
  return v;
}
inline Vec even_of(const float* from) { return even_or(from, 15u, 0.0f); }
template <int strip>
inline void fill_strip(float* to, float outside) {
  for (int lane = 0; lane < strip; ++lane) move_word(to + lane, &outside);
}
