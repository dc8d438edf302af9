// Sparse weight x dense tokens: Y(tokens, out) = act(X(tokens, in) W^T + bias).
//
// The SIMD axis is the tokens. For each tile of `depth` input features the tokens' values are transposed into a panel
// that stays in the L1 cache; each group of `rows` weight rows then walks its non-zeros, one of every row at a step:
// broadcast the weight, multiply the panel row it names, add into rows x (tokens / width) registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::spmm {

// A packed offset is the panel row times this; a panel row is `tokens` floats, so the kernel multiplies by tokens / 16.
inline constexpr int offset_unit = 64;
inline constexpr int narrowest = 16;   // tokens in the smallest tile
inline constexpr int max_depth = 1022;  // (depth + 1) * offset_unit still fits 16 bits

// How a step's weights come to all lanes: r, each row's by a load of its own; s, four rows' by one load, and one of them by
// a shuffle. Zen 4 has one 512-bit load a cycle, which the panel needs for itself. p, q: as s, as r, for groups with shared
// steps.
enum class Weights { r, s, p, q };
constexpr bool has_pairs(Weights how) { return how == Weights::p || how == Weights::q; }

// Groups with shared steps have four rows. In a shared step of pairing p rows r and r ^ (p + 1) name the same panel row,
// which is loaded once for both. Own steps ask for as many loads as multiplications, shared ones for half as many: where
// one of each follow each other, the loads run ahead far enough to hide what stands between two groups.
inline constexpr int quad = 4, pairings = 3;
inline constexpr int quad_counts = 6;  // steps; mixed of pairing 0, own, mixed of 1, mixed of 2, shared of 0: in this order

// One tile of the weight for one panel. A group is a count n, with pairs `quad_counts`, and `rows` row numbers; its n * rows
// entries are step by step, row by row; a mixed step is a shared and an own one. Entries that only fill up a step name panel
// row `depth`, which is zero, with weight zero.
struct Segment {
  const std::uint16_t* groups;   // (counts + rows) * count
  std::size_t count;
  const std::uint16_t* offsets;  // in units of panel rows * offset_unit
  const float* values;
};

// Memory to be asked for while a tile is worked on, the next panel's inputs or, after the last, the outputs: `lines`
// cache lines from each of `rows` rows that are `stride` bytes apart, `each` lines a group. weights: the next group's too.
struct Ahead {
  const char* at;
  std::ptrdiff_t stride;
  int rows, lines, each;
  bool to_write, weights;
};

// Adds W_tile * panel into acc. panel: (depth + 1, tokens), 64-byte aligned; acc: (rows of the band, tokens), aligned.
// first: acc is written, not added to.
using Accumulate = void (*)(const Segment&, const float* panel, float* acc, bool first, Ahead&) noexcept;

// panel[k][t] = x[t * stride + k], zero for t >= valid tokens and in panel row `depth`.
using LoadPanel = void (*)(const float* x, std::ptrdiff_t stride, int valid, int features, int depth, int tokens,
                           float* panel) noexcept;

// y[t * stride + row] = act(acc[row][t] + bias[row]); bias may be null. acc has a multiple of 16 rows.
using Finish = void (*)(const float* acc, int rows, int tokens, int valid, const float* bias, Activation, float* y,
                        std::ptrdiff_t stride) noexcept;

// panel[k][t] = act(acc[k][t] + bias[k]) for k < rows, zero in panel row `depth`: what LoadPanel would make of what Finish
// writes.
using Refill = void (*)(const float* acc, int rows, int tokens, const float* bias, Activation, int depth,
                        float* panel) noexcept;

struct Kernel {
  const char* name;
  Isa isa;
  int rows;    // weight rows that share a step
  int tokens;  // the widest token tile
  int depth;   // input features in a panel
  bool pairs;  // groups have shared steps
  int counts() const { return pairs ? quad_counts : 1; }  // before a group's row numbers
  Accumulate accumulate[4];  // for 16, 32, 64, 128 tokens; null beyond `tokens`
  LoadPanel load_panel;
  Refill refill;
  Finish finish;
};

// Every enumerated kernel, in the order of spmm.inc.
struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::spmm
