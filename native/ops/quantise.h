// Float rows to 8-bit rows over threads, and the scratch that kernels with 8-bit activations keep them in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quantise/contract.h"
#include "ops/layout.h"

namespace rarefy::quantise {

// The step of 255 that span [low, high], its inverse, and which of them is 0. low <= 0 <= high; 0 and 0 give 1.
struct Scale {
  float step, inverse;
  std::int32_t zero;
};
Scale scale_of(float low, float high) noexcept;

// Each token's own scale and zero point: its range, widened to hold 0, over 255 steps. A row of zeros has scale 1.
void rows(const float* x, std::ptrdiff_t tokens, int features, std::uint8_t* values, std::ptrdiff_t stride, float* scale,
          std::int32_t* zero, int threads);

// One row of the above; `kernel` is of the instruction set in force.
void row(const Kernel& kernel, const float* x, int features, std::uint8_t* values, float* scale, std::int32_t* zero) noexcept;

// The rows (tokens, features) as bytes in this thread's scratch, valid until this thread's next call: with `scale` 0 each
// token's own scales, else the given ones; `inverse` (features), where it is there, is multiplied with instead of 1 / scale.
Rows8 to_scratch(const float* x, std::ptrdiff_t tokens, int features, float scale, std::int32_t zero, int threads,
                 const float* inverse = nullptr);

}  // namespace rarefy::quantise
