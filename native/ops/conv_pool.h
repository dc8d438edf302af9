// Max pooling of images: shares out planes and runs the kernel of the instruction set in force.
#pragma once

#include "kernels/conv_pool/contract.h"

namespace rarefy::conv_pool {

void max_pool(const Problem& problem, std::ptrdiff_t planes, int threads);

}  // namespace rarefy::conv_pool
