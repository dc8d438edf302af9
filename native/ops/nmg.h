// Grouped N:M x few tokens: puts the inputs in order, shares out rows and runs one kernel.
#pragma once

#include "ops/layout.h"

namespace rarefy::nmg {

// The family: its kernels, and the layout of a weight (out, in) for one of them (null: no such kernel).
std::vector<KernelEntry> entries();
std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& kernel);

}  // namespace rarefy::nmg
