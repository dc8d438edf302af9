// Weights in lines (pack/lines.h), whole ("dense...") or as a bitmap and the non-zeros ("expand..."): of 8 bits with
// 8-bit inputs, of bfloat16 with inputs rounded to it, of bfloat16 or float with floats.
#pragma once

#include "ops/layout.h"

namespace rarefy::dense {

std::vector<KernelEntry> entries();
// Null: no such kernel. Throws std::invalid_argument for 8-bit weights with scales in groups, or whose rows' sums could
// pass 31 bits.
std::unique_ptr<Layout> make(const WeightSource& weight, const std::string& kernel);

}  // namespace rarefy::dense
