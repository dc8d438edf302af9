// The sparse x few tokens operation: shares out rows and runs one kernel.
#pragma once

#include "pack/rows.h"

namespace rarefy::spmv {

// y (tokens, out) = act(x (tokens, in) W^T + bias (out) or nothing); right for any number of tokens, meant for few.
void multiply(const Packed& weight, const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation,
              float* y, int threads);

}  // namespace rarefy::spmv
