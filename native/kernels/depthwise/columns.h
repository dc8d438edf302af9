// Inputs of three kernel columns for a vector of outputs. Included after kernels/conv/strip_*.h.

// Which lanes of each kernel column are inside the image, for outputs from column c on.
template <int stride>
struct Columns {
  std::ptrdiff_t first;  // input column of lane 0 and kernel column 0
  unsigned keep[3];
  bool inner;            // all vectors may be read whole

  Columns(const depthwise::Place& p, int c) : first(static_cast<std::ptrdiff_t>(c) * stride - p.left) {
    inner = first >= 0 && first + (stride == 1 ? width + 2 : 2 * width + 2) <= p.width;
    for (int j = 0; j < 3; ++j) {
      keep[j] = 0;
      for (int lane = 0; lane < width; ++lane) {
        const std::ptrdiff_t at = first + lane * stride + j;
        keep[j] |= static_cast<unsigned>(at >= 0 && at < p.width) << lane;
      }
    }
  }
  template <bool whole>
  void load(const float* row, float outside, Vec (&x)[3]) const {
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const float* const from = row + first + j;
      if constexpr (stride == 1) x[j] = whole ? loadu(from) : strip_or(from, keep[j], outside);
      else x[j] = whole ? even_of(from) : even_or(from, keep[j], outside);
    }
  }
};
