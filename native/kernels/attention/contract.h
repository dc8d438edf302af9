// Attention of one head: Y = softmax(scale Q K^T + mask) V, a block of queries at a time.
//
// Keys are transposed once a head into panels of `tile_keys` across, values copied beside each other; both then stay in
// the L2 cache. For a block of queries all scores are computed (a tile of rows x keys in registers), the exact row
// maximum is taken, and the probabilities, not yet divided by their sum, multiply the values.
#pragma once

#include <cstddef>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::attention {

inline constexpr int tile_keys = 64;      // keys in a panel
inline constexpr int tile_queries = 6;    // queries that share a loaded key or value
inline constexpr int block_queries = 24;  // queries whose scores are alive together; a multiple of tile_queries

// Rows are `*_row` floats apart; a row is contiguous. At most one of `added` (to the scores) and `allowed` (bytes, 0 =
// hidden) is there; its rows are mask_row elements apart (0 = one row for all queries) and contiguous.
struct Head {
  const float *q, *k, *v;
  std::ptrdiff_t q_row, k_row, v_row;
  float* y;
  std::ptrdiff_t y_row;
  const float* added;
  const unsigned char* allowed;
  std::ptrdiff_t mask_row;
  int queries, keys, depth;  // depth: features of a head
  float scale;
};

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Where things lie in the scratch memory, in floats; every part begins on a cache line.
struct Layout {
  int padded_keys, padded_depth;
  std::size_t panels, values, queries, scores, mask, size;
  constexpr Layout(int keys, int depth)
      : padded_keys(round_up(keys, tile_keys)), padded_depth(round_up(depth, 16)),
        panels(0),
        values(panels + static_cast<std::size_t>(padded_keys) * depth),
        queries(values + static_cast<std::size_t>(keys) * padded_depth),
        scores(queries + static_cast<std::size_t>(block_queries) * padded_depth),
        mask(scores + static_cast<std::size_t>(block_queries) * padded_keys),
        size(mask + static_cast<std::size_t>(tile_queries) * padded_keys) {}
};

struct Kernel {
  Isa isa;
  // Fills the panels and values of `scratch`, which has Layout(keys, depth).size floats on a cache line.
  void (*prepare)(const Head&, float* scratch) noexcept;
  // Writes queries [first, last) of y.
  void (*attend)(const Head&, int first, int last, float* scratch) noexcept;
};

// The instance for an instruction set.
const Kernel& kernel(Isa isa) noexcept;

}  // namespace rarefy::attention
