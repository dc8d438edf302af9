// The 8-bit product of a whole weight: shares tokens and blocks of rows out among threads and caches.
#pragma once

#include "core/aligned.h"
#include "kernels/dense8/contract.h"
#include "kernels/expand/contract.h"
#include "ops/inputs8.h"
#include "ops/layout.h"
#include "pack/lines.h"

namespace rarefy::dense8 {

struct Weight {
  lines::Lines lines;
  AlignedVector<float> scale;        // a multiple of 16 rows
  AlignedVector<std::int32_t> sums;  // of a row's codes
  const Kernel* kernel;
  expand::Expand expand;

  std::ptrdiff_t block_bytes() const { return static_cast<std::ptrdiff_t>(lines.lines()) * line_bytes; }
};

struct Results {
  const float* bias;
  Activation activation;
  Output8 to;
};

// y = act(x W^T + bias), to floats or bytes.
void multiply(const Weight& w, const Inputs8& inputs, const Results& results, int threads);

}  // namespace rarefy::dense8
