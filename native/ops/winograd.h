// The dense convolution by minimal filtering of images across the lanes: shares tiles out and runs one kernel.
#pragma once

#include "ops/conv_across.h"
#include "pack/winograd.h"

namespace rarefy::winograd {

// Max pooling of what the convolution gives: as kernels/conv_pool, without dilation.
struct Pool {
  int kernel[2], stride[2], padding[2];  // down, across
  int out_height, out_width;
};

// As conv::convolve_across, but for the weight, which is not turned.
void convolve_across(const Packed& weight, const conv::Across& problem, int threads);

// Followed by pooling, of which only the result (blocks, out, pool.out_height, pool.out_width, lanes) is written to
// problem.y. No residual. Throws std::invalid_argument for a pooling whose windows overlap too much for a tile.
void convolve_pooled(const Packed& weight, const conv::Across& problem, const Pool& pool, int threads);

}  // namespace rarefy::winograd
