// The sparse x dense operation: shares out token tiles and bands of rows, and runs one kernel.
#pragma once

#include "ops/layout.h"
#include "pack/tiled.h"

namespace rarefy::spmm {

// y (tokens, out) = act(x (tokens, in) W^T + bias (out) or nothing); x and y row-major, not overlapping.
void multiply(const Tiled& weight, const float* x, std::ptrdiff_t tokens, const float* bias, Activation activation,
              float* y, int threads);

// Layout::multiply_through.
bool multiply_through(const Tiled& first, const Tiled& second, const float* x, std::ptrdiff_t tokens, const Ending& between,
                      const Ending& last, float* y, int threads);

// The family: its kernels, and the layout of a weight (out, in) of floats for one of them (null: no such kernel).
std::vector<KernelEntry> entries();
std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& kernel);

}  // namespace rarefy::spmm
