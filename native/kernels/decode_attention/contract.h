// Attention of a few new tokens over cached keys and values: y = softmax(scale q K^T) V, causal, for the query heads that
// share one key/value head (grouped queries): every cached key and value is read once for all of them.
//
// Keys lie in panels of `block_keys`: feature i of key t at ((t / 16) * depth + i) * 16 + t % 16, so that a vector holds
// one feature of many keys and a score needs no sum across lanes. Values lie row by row.
#pragma once

#include <cstddef>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::decode_attention {

inline constexpr int block_keys = 16;
inline constexpr int most_rows = 8;  // (query, head) rows that share a pass over keys or values

// Row r = query * share + head reads q + query * q_token + head * depth and writes y in the same way. Query n may see
// keys [first, past + n]; `allowed` (one byte a key, 0 = hidden, or null) hides more. A row that sees nothing gives zeros.
struct Group {
  const float* q;
  std::ptrdiff_t q_token;
  const float* keys;
  const float* values;
  const unsigned char* allowed;
  float* y;
  std::ptrdiff_t y_token;
  int queries, share, depth, first, past;
  float scale;
};

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Floats of scratch memory (on a cache line) that a group needs: scores of one tile of rows, its queries.
constexpr std::size_t scratch_floats(int keys, int depth) {
  return static_cast<std::size_t>(most_rows) * (round_up(keys, 4 * block_keys) + round_up(depth, block_keys));
}

// Denormals must be flushed while it runs.
struct Kernel {
  Isa isa;
  void (*attend)(const Group&, float* scratch) noexcept;
};

// The instance for an instruction set.
const Kernel& kernel(Isa isa) noexcept;

}  // namespace rarefy::decode_attention
