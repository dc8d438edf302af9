// The product with a whole weight in lines: shares tokens and blocks of rows out among threads and caches.
#pragma once

#include "core/blob.h"
#include "kernels/dense/contract.h"
#include "kernels/expand/contract.h"
#include "ops/dense_inputs.h"
#include "ops/layout.h"
#include "pack/lines.h"

namespace rarefy::dense {

struct Weight {
  lines::Lines lines;
  Array<float> scale;        // a multiple of 16 rows
  Array<std::int32_t> sums;  // of a row's codes
  const Kernel* kernel;
  expand::Expand expand;

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [lines, scale, sums, kernel, expand] = self;
    archive(lines, scale, sums);
  }

  std::ptrdiff_t block_bytes() const { return static_cast<std::ptrdiff_t>(lines.lines()) * line_bytes; }
};

struct Results {
  const float* bias;
  Activation activation;
  Output8 to;
};

// y = act(x W^T + bias), to floats or bytes.
void multiply(const Weight& w, const Inputs& inputs, const Results& results, int threads);

}  // namespace rarefy::dense
