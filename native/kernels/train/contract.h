// Products with a sparse weight while it is trained: values change at every step, so nothing is packed. Inputs lie in a
// panel of units: 16 floats, the same feature of 16 images (or rows of a batch), which are what the SIMD lanes hold.
// A panel's floats begin on a cache line, so that every unit is one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::train {

inline constexpr int unit = 16;  // floats

// Row r owns the entries [begin[r], begin[r + 1]). Entry e reads the panel at float `at[e] << shift`. Rows come in groups
// of `shared` (1, 2, 4) whose lists `at` are the same; a range of rows begins and ends at a group.
struct Entries {
  const std::int64_t* begin;
  const std::int32_t* at;
  const float* values;  // not read by `sample`
  int shared, shift;
};

// The places of an output that one pass fills: `down` lines of `across` units. Distances are in floats.
struct Places {
  int down, across;
  std::ptrdiff_t in_line, in_step;           // in the panel
  std::ptrdiff_t out_row, out_line, out_step;  // in the other: rows of the weight, lines, units
};

struct Kernel {
  Isa isa;
  // out[row - first][place] = bias[row] + sum over the row's entries of value * panel[at + place]; bias may be null.
  void (*multiply)(const Entries&, int first, int last, const Places&, const float* panel, const float* bias,
                   float* out) noexcept;
  // sums[e] += sum over places and lanes of grad[row of e - first][place] * panel[at + place].
  void (*sample)(const Entries&, int first, int last, const Places&, const float* panel, const float* grad,
                 float* sums) noexcept;
  // panel[k * tokens + t] = x[t * stride + k] for k < features, t < tokens (a multiple of 16); zero for t >= valid.
  void (*load)(const float* x, std::ptrdiff_t stride, int valid, int features, int tokens, float* panel) noexcept;
  // The way back: y[t * stride + k] for t < valid. Reads up to 16 features beyond.
  void (*finish)(const float* panel, int features, int tokens, int valid, float* y, std::ptrdiff_t stride) noexcept;
};

// The instance for an instruction set.
const Kernel& kernel(Isa isa) noexcept;

}  // namespace rarefy::train
