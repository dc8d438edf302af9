// What a gated layer computes between its two products: y = act(gate) * up.
#pragma once

#include <cstddef>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::gate {

struct Kernel {
  Isa isa;
  // from (2, features): gate, then up; y (features) may be `from`.
  void (*multiply)(const float* from, int features, Activation activation, float* y) noexcept;
};

// The instance for an instruction set.
const Kernel& kernel(Isa isa) noexcept;

}  // namespace rarefy::gate
