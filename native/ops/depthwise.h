// Depthwise convolutions: shares the planes out among threads.
#pragma once

#include "ops/conv.h"
#include "ops/conv8.h"
#include "pack/depthwise.h"

namespace rarefy::depthwise {

// As conv::convolve and conv8::convolve; out_channel of the former is not looked at.
void convolve(const Packed& weight, const conv::Problem& problem, int threads);
void convolve8(const Packed8& weight, const conv8::Problem& problem, int threads);

}  // namespace rarefy::depthwise
