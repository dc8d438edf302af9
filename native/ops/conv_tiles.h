// Cuts the output of a convolution into tiles, shares them out with bands of channels, and sums them up; what becomes of
// the sums is the caller's. Images are of 32-bit words: floats, or the bytes of four channels.
#pragma once

#include "pack/conv.h"

namespace rarefy::conv {

struct Place {
  const float* x;        // (batch, channels, height, width)
  int batch, height, width;
  int top, left;         // padding
  int out_height, out_width;
  int out_channels;      // planes of one image of the output
  std::ptrdiff_t out_channel;  // words between them; 0: close together
};

// The image as the kernels see it. Where the window is one pixel, rows are cut out of the plane as one long line.
struct Plane {
  int height, width, tail;          // input rows, columns, columns of the last row
  int out_height, out_width, out_tail;
  std::ptrdiff_t channel, out_channel;
};

// The sums of one band of output channels (rows, pixels, width) of the strips in a tile.
struct Ended {
  const Plane& plane;
  const Strip* strips;
  int parts, band;
  const float* sums;
};

// outside: of the image, what it is taken to hold beyond its edges. end: called for every band of every tile.
using Outside = float (*)(const void* context, std::size_t image) noexcept;
using End = void (*)(const void* context, const Ended&) noexcept;
void each_tile(const Packed& weight, const Place& place, int threads, Outside outside, End end, const void* context);

// What a panel may take of the first-level cache of this CPU.
std::size_t panel_bytes();

}  // namespace rarefy::conv
