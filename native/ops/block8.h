// The sparse 8-bit product: shares out token tiles and bands of rows, and runs one kernel.
#pragma once

#include "ops/layout.h"

namespace rarefy::block8 {

// The family: its kernels, and the layout of codes (out, in) with one scale a row for one of them (null: no such kernel).
std::vector<KernelEntry> entries();
std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& kernel);

}  // namespace rarefy::block8
