// RMS norm of a sum: s = x + residual, y = s / sqrt(mean(s^2) + eps) * weight, row by row in one pass over memory.
#pragma once

#include <cstddef>

#include "core/features.h"

namespace rarefy::rms {

// Rows of x and y are `stride` floats apart. residual is null or read like x; sum is null or gets s, and may be x or
// residual. y may be x where sum is null.
struct Rows {
  const float* x;
  const float* residual;
  float* sum;
  const float* weight;
  float* y;
  std::ptrdiff_t stride;
  int features;
  float eps;
};

struct Kernel {
  Isa isa;
  void (*add_rms_norm)(const Rows&, std::ptrdiff_t first, std::ptrdiff_t last) noexcept;  // rows [first, last)
};

// The instance for an instruction set.
const Kernel& kernel(Isa isa) noexcept;

}  // namespace rarefy::rms
