// Constant fan-in: every output has the same number of inputs. Y(tokens, out) = act(X(tokens, in) W^T + bias).
//
// Bands of 16 outputs, transposed: step j of a band holds the j-th column (16 bits, or 32 in wide layers) of each output, then the j-th values.
// An output with fewer entries points at column `in`, where the inputs have a zero. Neither row starts nor counts, no
// remainders and no sums across lanes. One token: outputs are the SIMD axis, inputs are gathered. More: tokens are.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"
#include "kernels/matvec/contract.h"

namespace rarefy::fanin {

using matvec::Stored;

inline constexpr int band = 16;         // outputs
inline constexpr int widest_for_16_bits = 65535;  // inputs: the next column is the zero
inline constexpr int overread = 256;    // bytes that may be read (not used) behind the end
inline constexpr int most_tokens = 16;  // in one pass over the weights, at most: the SIMD width

// index: the bytes of a column
constexpr int step_bytes(Stored s, int index) { return band * (index + matvec::size_of(s)); }

struct Bands {
  const unsigned char* bytes;
  const float* scales;  // (out, rounded up to whole bands) of int8 values, else null
  int steps;            // entries of an output
  int index;            // bytes of a column, 2 or 4
};

struct Kernel {
  const char* name;
  Isa isa;
  Stored stored;
  int width;  // tokens side by side
  // Rows [first, last), first a multiple of `band`, of one token: x (in + 1), the last of them 0.
  void (*one)(const Bands&, int first, int last, const float* x, const RowOutput&) noexcept;
  // The same of `tokens` <= width tokens: x (in + 1, width), token by token beside each other.
  void (*some)(const Bands&, int first, int last, const float* x, int tokens, const RowOutput&) noexcept;
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::fanin
