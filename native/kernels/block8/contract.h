// Sparse 8-bit weight x 8-bit tokens: sums of products in 32 bits, then act(scale (sum - zero sums) + bias).
//
// The SIMD axis is the tokens; a lane holds four products' bytes of one token. Two shapes of stored weights:
//   cells   four consecutive inputs of one row. The panel (depth / 4, tokens) of words holds the tokens' values four
//           inputs at a time, so a cell is one broadcast and one dot product for every vector of tokens.
//   strips  one input of `rows` rows. The panel (depth, tokens) of bytes has a row for each input; a step takes four of
//           them, interleaves their bytes into words, and multiplies by four weights of every row of the strip.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/contract.h"

namespace rarefy::block8 {

enum class Shape : int { cell, strip };

// A packed offset is (cells) the number of four inputs or (strips) of the input, times this: a sixteenth of the bytes
// of a panel row for each 16 tokens, or 4 tokens.
inline constexpr int offset_unit = 16;
inline constexpr int narrowest = 16;    // tokens in the smallest tile
inline constexpr int max_depth = 4096;  // depth * offset_unit fits 16 bits

// One tile of the weight for one panel. A group is a count n and `rows` row numbers; its n steps hold
//   cells   `rows` offsets and `rows` times four weights: a cell of each row,
//   strips  four offsets and `rows` times four weights: the same four inputs for each row.
// Filling has weight zero.
struct Segment {
  const std::uint16_t* groups;  // (1 + rows) * count
  std::size_t count;
  const std::uint16_t* offsets;
  const std::int8_t* values;
};

// Memory that will be written when the sums are done, to be asked for meanwhile: `lines` cache lines from each of `rows`
// rows that are `stride` bytes apart, `each` rows a group.
struct Ahead {
  const char* at;
  std::ptrdiff_t stride;
  int rows, lines, each;
};

// Adds W_tile * panel into acc (rows of the band, a multiple of 16; tokens of the widest tile), both on cache lines.
// first: acc is written, not added to.
using Accumulate = void (*)(const Segment&, const std::uint8_t* panel, std::int32_t* acc, bool first, Ahead&) noexcept;

// The panel of x[t * stride + k] for t < valid, k < features; zero elsewhere up to `tokens` and a multiple of 4 inputs.
using LoadPanel = void (*)(const std::uint8_t* x, std::ptrdiff_t stride, int valid, int features, int tokens,
                           std::uint8_t* panel) noexcept;

// What turns sums of a band into results. weight_scale, sums: of the band's rows, padded to 16; sums: the row's sum of
// weights as 128 high + low, high << 16 | low with 0 <= low < 128; zero: of the tile's tokens, halves -128 z and -z: the
// products of such pairs of 16-bit halves give -z times the row's sum. scale: of the tile's tokens.
struct Epilogue {
  const float* weight_scale;
  const std::int32_t* sums;
  const float* bias;  // of the band's first row, or null
  Activation activation;
  const float* scale;
  const std::int32_t* zero;
};

// Where they go: y, or bytes round(y * inverse) + zero, where `inverses` has one for each row unless it is null; `stride`
// elements from token to token.
struct Destination {
  float* y;
  std::uint8_t* bytes;
  std::ptrdiff_t stride;
  float inverse;
  const float* inverses;
  std::int32_t zero;
};

// acc as Accumulate wrote it.
using Finish = void (*)(const std::int32_t* acc, int rows, int valid, const Epilogue&, const Destination&) noexcept;

struct Kernel {
  const char* name;
  Isa isa;
  Shape shape;
  int rows;          // cells: weight rows that share a step; strips: rows of a strip
  int tokens;        // the widest token tile; strips have no other
  int depth;         // input features in a panel
  bool exact_pairs;  // false: 255 (|a| + |b|) of the first two weights of a step, and of the last two, must stay below 2^15
  Accumulate accumulate[4];  // for 16, 32, 64, 128 tokens; null where there is none
  LoadPanel load_panel;
  Finish finish;
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;  // in the order of block8.inc

}  // namespace rarefy::block8
