// Attention of many heads: shares out (batch, head, part of the queries) over threads.
#pragma once

#include <cstddef>

#include "kernels/attention/contract.h"

namespace rarefy::attention {

// How far apart in floats (mask: elements) neighbours are; rows of features are contiguous.
struct Strides {
  std::ptrdiff_t batch, head, token;
};

struct Problem {
  const float *q, *k, *v;
  const float* added;            // a mask to add, or null
  const unsigned char* allowed;  // a mask of bytes, 0 = hidden, or null
  float* y;
  Strides q_at, k_at, v_at, mask_at, y_at;
  std::ptrdiff_t batch;
  int heads, queries, keys, depth;
  float scale;
};

void attend(const Problem& problem, int threads);

// The same through 8-bit products where the instruction set has them and the problem's form allows it (kernels/attention8);
// in floats otherwise. Returns whether it was 8 bits.
bool attend8(const Problem& problem, int threads);

}  // namespace rarefy::attention
