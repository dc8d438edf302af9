// Largest value of each window of an image: y[r][c] = max over i, j of x[r * stride + i * dilation - padding][...].
//
// Rows are combined first, whole vectors of columns at a time, into a line with -infinity at both ends; then the line's
// columns are. A NaN in a window is its result, as in torch.
#pragma once

#include <cstddef>

#include "core/features.h"

namespace rarefy::conv_pool {

inline constexpr int slack = 64;         // floats of a line beyond its last window
inline constexpr int rows_together = 8;  // output rows whose lines are made before their columns are combined

// Pairs are (down, across). x (planes, height, width) and y (planes, out_height, out_width).
struct Problem {
  const float* x;
  float* y;
  int height, width, out_height, out_width;
  int kernel[2], stride[2], padding[2], dilation[2];
  std::ptrdiff_t plane, out_plane;  // floats from one plane to the next, of x and y

  // Floats of a line: the padding, the row, whatever the last window reaches beyond it.
  int line() const {
    const int reach = (out_width - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 1;
    return (padding[1] + width > reach ? padding[1] + width : reach) + slack;
  }
  std::size_t scratch() const { return static_cast<std::size_t>(line()) * rows_together; }
};

struct Kernel {
  Isa isa;
  void (*max_pool)(const Problem&, std::ptrdiff_t first, std::ptrdiff_t last, float* lines) noexcept;  // planes
};

// The instance for an instruction set.
const Kernel& kernel(Isa isa) noexcept;

}  // namespace rarefy::conv_pool
