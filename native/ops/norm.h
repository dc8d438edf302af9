// The layer norm of a sum over rows: shares out rows and runs the kernel of the instruction set in force.
#pragma once

#include "kernels/norm/contract.h"

namespace rarefy::norm {

void add_layer_norm(const Rows& rows, std::ptrdiff_t count, int threads);

}  // namespace rarefy::norm
