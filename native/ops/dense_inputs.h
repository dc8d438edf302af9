// The inputs of a product in the kernel's type: made from floats, or copied where the kernel reads beyond a row's end.
#pragma once

#include "core/aligned.h"
#include "kernels/dense/contract.h"
#include "ops/layout.h"

namespace rarefy::dense {

struct Step {
  float scale;
  std::int32_t zero;
};

// Floats (tokens, in), or 8-bit rows where `floats` is null.
struct Inputs {
  std::ptrdiff_t tokens;
  int in;
  const float* floats;
  Rows8 rows;
  const Step* known;  // for floats: of all tokens; null: each token's own is found
};

// Rows that may be read for `padded` bytes each.
struct Bytes {
  const std::uint8_t* values;
  std::ptrdiff_t tokens, stride;
  const float* scale;
  const std::int32_t* zero;
  std::ptrdiff_t step;

  Bytes from(std::ptrdiff_t t, std::ptrdiff_t count) const {
    return {values + t * stride, count, stride, scale + t * step, zero + t * step, step};
  }
};

// Tokens [first, first + tokens). What it points to lives until the scratch is used again, or as long as the inputs.
Bytes bytes_of(const Inputs& inputs, const Kernel& kernel, int padded, std::ptrdiff_t first, std::ptrdiff_t tokens,
               Scratch& scratch);

}  // namespace rarefy::dense
