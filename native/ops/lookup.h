// Sparse weight x few tokens, inputs picked out of registers: puts the inputs in blocks, shares out bands and runs one kernel.
#pragma once

#include "ops/layout.h"

namespace rarefy::lookup {

// The family: its kernels, and the layout of a weight (out, in) for one of them (null: no such kernel).
std::vector<KernelEntry> entries();
std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& kernel);

}  // namespace rarefy::lookup
