// 8-bit weights in lines, whole ("dense8") or as a bitmap and the non-zeros ("expand8"), times 8-bit inputs.
#pragma once

#include "ops/layout.h"

namespace rarefy::dense8 {

std::vector<KernelEntry> entries();
// Null: no such kernel. Throws std::invalid_argument for scales in groups, and for rows whose sums could pass 31 bits.
std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& kernel);

}  // namespace rarefy::dense8
