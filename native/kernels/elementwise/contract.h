// What a program computes entry by entry, where no neighbouring kernel has taken it in: spans of contiguous floats.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::elementwise {

struct Kernel {
  Isa isa;
  void (*activate)(Activation, const float* x, std::ptrdiff_t count, float* y) noexcept;  // y may be x
  void (*add)(const float* a, const float* b, std::ptrdiff_t count, float* y) noexcept;
  void (*multiply)(const float* a, const float* b, std::ptrdiff_t count, float* y) noexcept;
};

// The instance for an instruction set.
const Kernel& kernel(Isa isa) noexcept;

}  // namespace rarefy::elementwise
