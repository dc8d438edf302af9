// Written so that the compiler makes vectors of it, once for each instruction set. Sizes have no sign bit, so that signed
// comparisons, which all instruction sets have, order them.

inline void keep_above(const float* x, const float* threshold, int step, const float* w, int width, float* to) noexcept {
  if (step == 0) {
    const float least = *threshold;
    if (w == nullptr)
      for (int j = 0; j < width; ++j) to[j] = std::fabs(x[j]) <= least ? 0.0f : x[j];
    else
      for (int j = 0; j < width; ++j) to[j] = std::fabs(x[j]) * w[j] <= least ? 0.0f : x[j];
  } else if (w == nullptr) {
    for (int j = 0; j < width; ++j) to[j] = std::fabs(x[j]) <= threshold[j] ? 0.0f : x[j];
  } else {
    for (int j = 0; j < width; ++j) to[j] = std::fabs(x[j]) * w[j] <= threshold[j] ? 0.0f : x[j];
  }
}

inline void keep_positive(const float* x, int width, float* to) noexcept {
  for (int j = 0; j < width; ++j) to[j] = x[j] <= 0.0f ? 0.0f : x[j];
}

inline void sizes_of(const float* x, const float* w, int width, std::uint32_t* to) noexcept {
  if (w == nullptr)
    for (int j = 0; j < width; ++j) to[j] = __builtin_bit_cast(std::uint32_t, std::fabs(x[j]));
  else
    for (int j = 0; j < width; ++j) to[j] = __builtin_bit_cast(std::uint32_t, std::fabs(x[j]) * w[j]);
}

inline void count_sizes(const std::uint32_t* size, std::uint32_t edge, int width, int* above, int* from) noexcept {
  int larger = 0, equal = 0;
  const int least = static_cast<int>(edge);
  for (int j = 0; j < width; ++j) {
    larger += static_cast<int>(size[j]) > least;
    equal += static_cast<int>(size[j]) == least;
  }
  *above = larger;
  *from = larger + equal;
}

inline void keep_from(const std::uint32_t* size, std::uint32_t edge, const float* x, int width, float* to) noexcept {
  const int least = static_cast<int>(edge);
  for (int j = 0; j < width; ++j) to[j] = static_cast<int>(size[j]) >= least ? x[j] : 0.0f;
}
