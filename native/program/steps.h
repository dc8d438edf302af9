// The instructions that there are. Parts are of floats unless said otherwise.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "kernels/contract.h"
#include "ops/layout.h"
#include "program/instruction.h"

namespace rarefy::program {

using Step = std::unique_ptr<Instruction>;

// y (tokens, out) = act(x (tokens, in) W^T + bias); the layout outlives the program.
struct LinearOf {
  const Layout* layout;
  Part x;
  Size tokens;
  Part bias;
  Activation activation;
  Part y;
};
Step linear(LinearOf of);

// y (rows, features) = layer norm of x + residual; residual repeats every residual_rows rows, or is absent; total, if
// present, takes the sum itself.
struct NormOf {
  Part x, residual;
  Size residual_rows, rows;
  int features;
  Part weight, bias;
  float eps;
  Part total, y;
};
Step norm(NormOf of);

// y (rows, features) = sum of rows of tables, then layer norm where `weight` is present.
struct Table {
  enum class Index : int { rows = 0, counting = 1, constant = 2 };
  Part values;        // (entries, features)
  std::int64_t entries;
  Index index;        // by `rows` (int64, one for each row of y, repeating); the row's number modulo `period`; `first`
  Part rows;
  Size period;        // after so many rows the index repeats
  std::int64_t first;
};
struct EmbedOf {
  std::vector<Table> tables;
  Size rows;
  int features;
  Part weight, bias;
  float eps;
  Part y;
};
Step embed(EmbedOf of);

struct Strides3 {
  Size batch, head, token;
};
// y = softmax(scale q k^T + mask) v for every batch and head. mask: bytes (0 = hidden), floats to add, or absent.
struct AttentionOf {
  Part q, k, v, mask, y;
  bool mask_is_bytes;
  Strides3 q_at, k_at, v_at, mask_at, y_at;
  Size batch, heads, queries, keys;
  int depth;
  float scale;
};
Step attention(AttentionOf of);

// y = act(x), entry by entry; y may be x.
Step activate(Part x, Size count, Activation activation, Part y);

// y = a + b, or a * b; b repeats after `period` entries.
Step combine(bool multiply, Part a, Part b, Size count, Size period, Part y);

// y = the entries of x in order; y is contiguous, x has strides, 1 for the last of the four axes.
Step copy(Part x, std::array<Size, 4> sizes, std::array<Size, 3> strides, Part y);

// y (bytes) = 1 where x (int64) is not 0.
Step not_zero(Part x, Size count, Part y);

}  // namespace rarefy::program
