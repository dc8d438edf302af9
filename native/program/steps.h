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

// 8-bit rows (rows, features), `stride` bytes apart: with `known` 0 each row has a scale and a zero point of its own, else
// all have the known ones, and scale and zero hold one entry; then entry k was multiplied by inverse[k], where that is
// there, instead of 1 / known, before it was rounded. values absent: no such rows.
struct RowsOf8 {
  Part values, scale, zero;  // bytes, floats, int32
  std::int64_t stride = 0;
  float known = 0.0f;
  std::int32_t known_zero = 0;
  Part inverse{};

  bool present() const noexcept { return values.buffer >= 0; }
};

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

// A layer, and one that reads nothing but its outputs; the first one's y is memory that may stay unwritten.
Step linear_pair(LinearOf first, LinearOf second);

// The same from 8-bit rows; into floats y, or where that is absent into 8-bit rows without gaps of a known scale.
struct LinearOf8 {
  const Layout* layout;
  RowsOf8 x;
  Size tokens;
  Part bias;
  Activation activation;
  Part y;
  RowsOf8 y8;
};
Step linear8(LinearOf8 of);

// x (rows, features) as 8-bit rows.
Step quantise(Part x, Size rows, int features, RowsOf8 to);

// y (rows, features) = layer norm of x + residual; residual repeats every residual_rows rows, or is absent; total, if
// present, takes the sum itself.
struct NormOf {
  Part x, residual;
  Size residual_rows, rows;
  int features;
  Part weight, bias;
  float eps;
  Part total, y;
  RowsOf8 y8;  // y once more, or not
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
  RowsOf8 y8;
};
Step embed(EmbedOf of);

struct Strides3 {
  Size batch, head, token;
};
// y = softmax(scale q k^T + mask) v for every batch and head. mask: bytes (0 = hidden), floats to add, or absent. eight: through 8-bit
// products where the CPU has them.
struct AttentionOf {
  Part q, k, v, mask, y;
  bool mask_is_bytes;
  Strides3 q_at, k_at, v_at, mask_at, y_at;
  Size batch, heads, queries, keys;
  int depth;
  float scale;
  bool eight;
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
