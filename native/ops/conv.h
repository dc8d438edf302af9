// The sparse convolution: cuts the output into tiles, shares them out with bands of channels, and runs one kernel.
#pragma once

#include "pack/conv.h"

namespace rarefy::conv {

struct Problem {
  const float* x;         // (batch, channels, height, width)
  int batch, height, width;
  int top, left;          // padding
  int out_height, out_width;
  const float* bias;      // (out) or null
  const float* residual;  // shaped like y, added before the activation, or null
  Activation activation;
  float* y;               // (batch, out, out_height, out_width)
  std::ptrdiff_t out_channel = 0;  // floats between channels of y and residual where they are apart; 0: close together
};

// weight: packed for one of kernels().
void convolve(const Packed& weight, const Problem& problem, int threads);

// The kernel that a weight of floats was packed for.
inline const Kernel& kernel_of(const Packed& weight) { return *reinterpret_cast<const Kernel*>(weight.kernel); }

}  // namespace rarefy::conv
