// Dense weight x images across the lanes of vectors (kernels/conv) by minimal filtering: fewer products than weights.
//
// Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308, section 4.1. A tile of `outputs` x `outputs` pixels is
// A^T [(G g G^T) . (B^T d B)] A of its 6 x 6 inputs d and the `taps` x `taps` weights g, with 36 products for
// (outputs taps)^2. Points 0, 1, -1, 1/2, -2 and infinity: errors are 2.6 (3 outputs) and 3.7 times (4) those of the
// plain sum.
// A stride of s is s x s convolutions of stride 1 over every s-th row and column, whose sums are one: `phases`.
#pragma once

#include <cstddef>

#include "core/features.h"
#include "kernels/conv/contract.h"

namespace rarefy::winograd {

inline constexpr int points = 6;
inline constexpr int most_outputs = 4;
inline constexpr int most_tiles = 8;    // of a strip: neighbours along a row
inline constexpr int most_rows = 16;    // pooled rows that a strip's pixels belong to
inline constexpr int most_columns = 48;

// Where a tile's inputs lie. Phases are (down, across, channel); v is (point row, phase, point column, lanes).
struct Input {
  const float* x;                // channel 0 of a block of images
  std::ptrdiff_t channel, row;   // floats from one to the next
  int height, width, channels;
  int step_y, step_x;            // strides, and so the phases of each axis
  int top, left;                 // of the tile in phase (0, 0); negative in the padding
};
using Transform = void (*)(const Input&, float* v) noexcept;

struct Weights {
  const float* factors;  // (blocks of output channels, point row, phase, point column, output channel of the block)
  int phases;
  int out;
};

// A row of pooled pixels that reads rows [first, last) of a strip; `fresh`: nothing was put there yet.
struct Reach {
  int at, first, last;
  bool fresh;
};
struct Pooling {
  Reach rows[most_rows], columns[most_columns];
  int row_count, column_count;
};

struct Strip {
  const float* v;                // tile after tile
  int tiles;
  float* y;                      // output channel 0: the first pixel, or the first pooled one of all
  const float* residual;         // beside y, or null
  std::ptrdiff_t channel, row;   // floats from one to the next, of y and residual
  int rows, columns;             // that are inside the image
  const float* bias;             // of output channel 0, or null
  conv::Activation activation;
  const Pooling* pooling;        // null: pixels are stored as they are
};

// Blocks of output channels [first, last).
using Convolve = void (*)(const Weights&, const Strip&, int first, int last) noexcept;

struct Kernel {
  const char* name;
  Isa isa;
  int outputs, taps;  // of a tile, along each axis
  int together;       // output channels of a block
  int width;          // lanes
  Transform transform;
  Convolve convolve;
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::winograd
