// The sparse x dense operation: shares out token tiles and bands of rows, and runs one kernel.
#pragma once

#include "pack/tiled.h"

namespace rarefy::spmm {

// y (tokens, out) = act(x (tokens, in) W^T + bias (out) or nothing); x and y row-major, not overlapping.
void multiply(const Tiled& weight, const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation,
              float* y, int threads);

}  // namespace rarefy::spmm
