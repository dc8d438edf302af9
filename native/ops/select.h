// Which inputs of a token are used: the others become 0, and kernels by columns then skip them.
#pragma once

#include <cstddef>

#include "core/features.h"

namespace rarefy {

// Keeps x[j] where |x[j]| * weight[j] is above a threshold, or is among the `keep` largest of all or of every `block`
// neighbours (ties to the lower index), or where x[j] is above 0, or what mask `slot` of a step names (a decoder's alone).
// What is no number is kept, so that it is seen.
struct Select {
  enum class Kind : int { all = 0, threshold = 1, top = 2, positive = 3, blocks = 4, foreseen = 5 };
  Kind kind = Kind::all;
  const float* threshold = nullptr;  // threshold[j * step]
  int step = 0;                      // 0: one for all; 1: one an input
  const float* weight = nullptr;     // (width) or null
  int keep = 0;
  int block = 0;                     // blocks: a divisor of the width
  int slot = 0;                      // foreseen
};

// to (tokens, width) = x where it is kept, else 0; `to` may be x.
void select(const Select& by, const float* x, std::ptrdiff_t tokens, int width, float* to, Isa isa);

// mask (targets * spread) = 1 for the `keep` largest of the logits, signs counting, ties to the lower index, else 0; `spread`
// neighbours for each.
void likeliest(const float* logits, int targets, int keep, int spread, unsigned char* mask);

}  // namespace rarefy
