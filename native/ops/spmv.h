// The sparse x few tokens operation: shares out rows and runs one kernel.
#pragma once

#include "ops/layout.h"
#include "pack/rows.h"

namespace rarefy::spmv {

// y (tokens, out) = act(x (tokens, in) W^T + bias (out) or nothing); right for any number of tokens, meant for few.
void multiply(const Packed& weight, const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation,
              float* y, int threads);

// The family: its kernels, and the layout of a weight (out, in) of floats for one of them (null: no such kernel).
std::vector<KernelEntry> entries();
std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& kernel);

}  // namespace rarefy::spmv
