// Rows of a weight that a list names, times few tokens.
#pragma once

#include "ops/layout.h"

namespace rarefy::neurons {

// The family: its kernels, and the layout of a weight (out, in) for one of them (null: no such kernel).
std::vector<KernelEntry> entries();
std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& kernel);

}  // namespace rarefy::neurons
