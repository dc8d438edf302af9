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

void convolve(const Packed& weight, const Problem& problem, int threads);

// What a panel may take of the first-level cache of this CPU.
std::size_t panel_bytes();

}  // namespace rarefy::conv
