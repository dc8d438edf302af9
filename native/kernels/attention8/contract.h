// Attention of one head through 8-bit products: Y = softmax(scale Q K^T + mask) V, a block of queries at a time.
//
// Queries and keys are rounded to 8 bits with a scale for each token, values with a scale for each feature; e^(score -
// largest) is rounded to 255 steps, and divided by the sum of what it was rounded to. Sums of products are exact.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/attention/contract.h"

namespace rarefy::attention8 {

using attention::Head;
using attention::round_up;

inline constexpr int tile_keys = 64;      // keys in a panel
inline constexpr int block_queries = 24;  // queries whose scores are alive together
inline constexpr int most_depth = 256;

// A head that the kernels take: a multiple of 16 features, and no mask but one that is the same for all queries.
inline bool takes(const Head& head) {
  return head.depth % 16 == 0 && head.depth <= most_depth && head.added == nullptr &&
         (head.allowed == nullptr || head.mask_row == 0);
}

// Where things lie in the scratch memory, in bytes; every part begins on a cache line.
struct Layout {
  int padded_keys;
  std::size_t keys, values, key_scale, key_added, key_start, value_scale, queries, query_scale, scores, weights, size;
  constexpr Layout(int key_count, int depth)
      : padded_keys(round_up(key_count, tile_keys)),
        keys(0),                                                             // per panel: [depth / 4][64][4]
        values(keys + static_cast<std::size_t>(padded_keys) * depth),        // [keys / 4][depth][4]
        key_scale(values + static_cast<std::size_t>(padded_keys) * depth),   // floats
        key_added(key_scale + 4 * static_cast<std::size_t>(padded_keys)),    // 0, or -infinity for a hidden key
        key_start(key_added + 4 * static_cast<std::size_t>(padded_keys)),    // -128 times the sum of a key's codes
        value_scale(key_start + 4 * static_cast<std::size_t>(padded_keys)),
        queries(value_scale + 4 * static_cast<std::size_t>(round_up(depth, 16))),  // [24][depth], codes + 128
        query_scale(queries + static_cast<std::size_t>(block_queries) * round_up(depth, 64)),
        scores(query_scale + 4 * 32),
        weights(scores + 4 * static_cast<std::size_t>(block_queries) * padded_keys),
        size(weights + static_cast<std::size_t>(block_queries) * padded_keys) {}
};

struct Kernel {
  Isa isa;
  // Fills the keys and values of `scratch`, which has Layout(keys, depth).size bytes on a cache line.
  void (*prepare)(const Head&, std::uint8_t* scratch) noexcept;
  // Writes queries [first, last) of y.
  void (*attend)(const Head&, int first, int last, std::uint8_t* scratch) noexcept;
};

// The instance for an instruction set; null where it has no 8-bit dot products.
const Kernel* kernel(Isa isa) noexcept;

}  // namespace rarefy::attention8
