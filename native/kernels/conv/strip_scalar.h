// A row of a strip into the panel: lanes named by `keep`, zeros elsewhere. copy_even takes every other float.
template <int strip>
inline void copy_strip(const float* from, unsigned keep, float* to) {
  for (int lane = 0; lane < strip; ++lane) to[lane] = keep >> lane & 1u ? from[lane] : 0.0f;
}
template <int strip>
inline void copy_even(const float* from, unsigned keep, float* to) {
  for (int lane = 0; lane < strip; ++lane) to[lane] = keep >> lane & 1u ? from[2 * lane] : 0.0f;
}
template <int strip>
inline void clear_strip(float* to) {
  for (int lane = 0; lane < strip; ++lane) to[lane] = 0.0f;
}
