// Operations on a weight in compressed rows, as it is while it is trained: values change at every step, so nothing is
// packed. The SIMD axis is the tokens; the tokens' inputs are transposed into a panel as wide as the layer.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::csr {

inline constexpr int tile_tokens = 64;

// Checked before it comes here: offsets (rows + 1) never fall and stay within the entries; 0 <= columns < width.
struct Matrix {
  int rows, width;
  const std::int64_t* offsets;
  const std::int32_t* columns;
  const float* values;
};

struct Kernel {
  Isa isa;
  // acc[row - first][t] = sum over the row's entries of value * panel[column][t], for rows [first, last).
  void (*multiply)(const Matrix&, int first, int last, const float* panel, float* acc) noexcept;
  // out[e] += sum over t of left[row of e][t] * right[column of e][t], for the entries of rows [first, last).
  void (*sample)(const Matrix&, int first, int last, const float* left, const float* right, float* out) noexcept;
  void (*load_panel)(const float* x, std::ptrdiff_t stride, int valid, int features, int depth, int tokens,
                     float* panel) noexcept;
  void (*finish)(const float* acc, int rows, int tokens, int valid, const float* bias, Activation, float* y,
                 std::ptrdiff_t stride) noexcept;
};

// The instance for an instruction set.
const Kernel& kernel(Isa isa) noexcept;

}  // namespace rarefy::csr
