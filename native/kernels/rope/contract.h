// Rotary position embedding of one token's heads, in place: the two halves of a head are the coordinates that turn.
#pragma once

#include "core/features.h"

namespace rarefy::rope {

struct Kernel {
  Isa isa;
  // x (heads, depth) contiguous; cosine and sine (depth / 2): with x = (a, b), (a cos - b sin, b cos + a sin).
  void (*rotate)(float* x, int heads, int depth, const float* cosine, const float* sine) noexcept;
};

// The instance for an instruction set.
const Kernel& kernel(Isa isa) noexcept;

}  // namespace rarefy::rope
