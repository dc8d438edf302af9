// Sparse weight x few tokens: Y(tokens, out) = act(X(tokens, in) W^T + bias), the weights read once for all the tokens.
//
// The SIMD axis is the input features. Two ways to say where the non-zeros of a row are:
//   bitmask  one bit a column, 16 to a word; values packed. Best while a good part of the columns is there.
//   index    the column of each value, 16 bits (32 where the layer is wider than 65536); inputs are gathered.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::spmv {

enum class Format : int { bitmask = 0, index = 1 };

inline constexpr int most_tokens = 8;  // in one pass over the weights
inline constexpr int overread = 16;    // elements that may be read (not used) behind the end of values and columns

struct Rows {
  int in;
  const std::size_t* starts;        // (out + 1): where a row's values begin
  const float* values;
  const std::uint16_t* masks;       // bitmask: (out, ceil(in / 16))
  const std::uint16_t* columns16;   // index: one of the two, the other is null
  const std::uint32_t* columns32;
};

// Rows [first, last) of y for 1 to most_tokens tokens; x has row stride `in`.
using Multiply = void (*)(const Rows&, int first, int last, const float* x, int tokens, const RowOutput&) noexcept;

struct Kernel {
  const char* name;
  Isa isa;
  Format format;
  Multiply multiply;
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::spmv
