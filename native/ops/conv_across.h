// The sparse convolution of images that lie across the lanes of vectors, and the way into that layout and out of it.
#pragma once

#include "pack/conv.h"

namespace rarefy::conv {

// Blocks of kernel.width images: x (blocks, channels, height, width, lanes), aligned to a vector, lanes beyond the last
// image anything. The weight is packed with its window turned: kernel rows are columns there and columns rows.
struct Across {
  const float* x;
  int blocks, height, width;
  int top, left;          // padding
  int out_height, out_width;
  const float* bias;      // (out) or null
  const float* residual;  // shaped like y, or null
  Activation activation;
  float* y;               // (blocks, out, out_height, out_width, lanes)
};

void convolve_across(const Packed& weight, const Across& problem, int threads);

// images (count, size) to across (blocks, size, lanes), and back.
void to_across(const Kernel& kernel, const float* images, std::ptrdiff_t count, std::ptrdiff_t size, float* across, int threads);
void from_across(const Kernel& kernel, const float* across, std::ptrdiff_t count, std::ptrdiff_t size, float* images, int threads);

}  // namespace rarefy::conv
