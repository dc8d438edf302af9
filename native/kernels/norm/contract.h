// Layer norm of a sum: y = (s - mean) / sqrt(variance + eps) * weight + bias with s = x + residual, row by row, in one
// pass over memory: a row is summed, centred, squared and scaled while it is in the L1 cache.
#pragma once

#include <cstddef>

#include "core/features.h"

namespace rarefy::norm {

// x and y (rows, features), contiguous. residual (residual_rows, features) repeats every residual_rows rows, or is null;
// bias may be null. total, if there, takes x + residual itself; x may be y or total.
struct Rows {
  const float* x;
  const float* residual;
  std::ptrdiff_t residual_rows;
  const float* weight;
  const float* bias;
  float* y;
  int features;
  float eps;
  float* total = nullptr;
};

struct Kernel {
  Isa isa;
  void (*add_layer_norm)(const Rows&, std::ptrdiff_t first, std::ptrdiff_t last) noexcept;  // rows [first, last)
};

// The instance for an instruction set.
const Kernel& kernel(Isa isa) noexcept;

}  // namespace rarefy::norm
