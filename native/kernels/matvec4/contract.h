// 4-bit weights in groups of 16 inputs, times few tokens: a group is there as a whole, with a scale of its own, or not at
// all. Y(tokens, out) = act(X(tokens, in) W^T + bias), the weights read once for all the tokens.
//
// The stream of a row: where groups may be missing, a bit a group (little-endian, whole bytes); a 16-bit scale for each
// group that is there; its 16 values as two's complement nibbles, the first in the low half of the first byte.
//   groups   as above
//   dense    every group is there, no bits
//   wide     dense, and one scale serves two groups (32 inputs)
//   listed   no bits: the number of each group that is there (one byte, or two in wide layers), then the scales, then the
//            values, four groups in 32 bytes: the first two in the low halves, the others in the high ones. Rows are filled up
//            to whole fours by groups of scale 0. A tenth more bytes, and nothing to put in order before a row is summed.
// A value stands for code * scale16 * scale of the row / 65535: the largest scale of a row is exact, the others are
// rounded by at most 1/131070 of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::matvec4 {

enum class Format : int { groups = 0, dense = 1, wide = 2, listed = 3 };

inline constexpr int group_inputs = 16, group_bytes = 8, scale_bytes = 2;
inline constexpr int widest = 65536;   // inputs
inline constexpr int overread = 256;   // bytes that may be read (not used) behind the end of the streams
inline constexpr int behind = 32;      // groups behind a row's last for which lists have entries (scale 0, input 0)
inline constexpr int most_tokens = 8;  // in one pass over a row
inline constexpr int together = 4;     // groups of `listed` whose values share bytes

struct Rows {
  const unsigned char* bytes;
  const std::size_t* starts;     // (out + 1): where a row's stream begins
  const std::uint32_t* entries;  // (out): groups that are there
  const float* scales;           // (out): of the row, over 65535
  const float* sums;             // (out): of the row's weights, what a zero point has to be multiplied with
  int mask_bytes;                // before the scales of a row
  int number_bytes;              // of a group's number; 0 where groups have none
};

// Inputs as floats (`stride` floats a token, whole groups) or as bytes, see Rows8; both may be read 48 elements on.
struct Inputs {
  const float* x;
  std::ptrdiff_t stride;
  int tokens;
};
struct Inputs8 {
  const std::uint8_t* values;
  std::ptrdiff_t stride;
  const float* scale;
  const std::int32_t* zero;
  std::ptrdiff_t step;
  int tokens;
};

struct Kernel {
  const char* name;
  Isa isa;
  Format format;
  // Rows [first, last) of y. One of the two is null: the other says what the activations are.
  void (*multiply)(const Rows&, int first, int last, const Inputs&, const RowOutput&) noexcept;
  void (*multiply8)(const Rows&, int first, int last, const Inputs8&, const RowOutput&) noexcept;
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::matvec4
