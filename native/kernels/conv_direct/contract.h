// Sparse weight x images across the lanes of vectors (kernels/conv), inputs read where they lie.
//
// A tile is `pixels` neighbours of one output row. All non-zeros of an output channel are walked with its sums in
// registers: broadcast the weight, multiply the vectors that start at its (channel, tap). Nothing is copied and no sum is
// stored but the last, which pays where a channel has so few non-zeros that filling a panel costs more than it saves; the
// inputs come from the second-level cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"
#include "kernels/conv/contract.h"

namespace rarefy::conv_direct {

inline constexpr int most_pixels = 16;

// Pixels [first, last) of a tile that a tap multiplies: those whose input is inside the image.
struct Span {
  int first, last;
};

struct Rows {
  const float* values;
  const std::uint32_t* offsets;  // of each value, from tap (0, 0) of channel 0 and the first pixel: vectors
  const std::uint32_t* ends;     // (output channels, taps): where each tap's values end; they lie one after the other
  int taps;
};

struct Tile {
  const float* x;       // tap (0, 0) of input channel 0 for the first pixel; perhaps outside the image, where nothing is read
  const Span* spans;    // a tap; null: all are whole
  int step;             // vectors between the inputs of neighbouring pixels
  float* y;             // the first pixel in output channel 0
  const float* residual;  // beside y, or null
  std::ptrdiff_t channel; // floats between output channels
  int pixels;             // that are inside the image
  const float* bias;      // of output channel 0, or null
  conv::Activation activation;
  const float* next;      // inputs of the tile after this one that were not read yet, in input channel 0, or null
  std::ptrdiff_t in_channel;
  int in_channels;
};

// Output channels [first, last).
using Convolve = void (*)(const Rows&, const Tile&, int first, int last) noexcept;

struct Kernel {
  const char* name;
  Isa isa;
  int pixels;
  int width;             // lanes
  Convolve convolve[3];  // for a step of 1, 2, any
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::conv_direct
