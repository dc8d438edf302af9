// A convolution and the max pooling of its result, a few rows at a time: what lies between them stays in the cache.
#pragma once

#include "kernels/conv_pool/contract.h"
#include "ops/conv.h"

namespace rarefy::conv {

// problem.y is the pooled result (batch, out, pool.out_height, pool.out_width); pool.x and pool.y are not looked at, its
// height and width are the convolution's output. problem has no residual.
void convolve_pooled(const Packed& weight, const Problem& problem, const conv_pool::Problem& pool, int threads);

}  // namespace rarefy::conv
