// Depthwise 3x3 convolution, stride 1 or 2: each channel is multiplied by nine weights of its own. The SIMD axis is the
// output columns; inputs are read where they lie, and each row of them is used for several rows of outputs.
//
// With 8-bit weights and inputs a plane is one of words, the same pixel of four channels (kernels/conv8): the bytes of
// three neighbouring columns are interleaved, so that a word holds one channel's three columns and a zero.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/conv8/contract.h"

namespace rarefy::depthwise {

using conv::Activation;

// Of one image; `top`, `left`: padding.
struct Place {
  int height, width;
  int top, left;
  int out_height, out_width;
};

struct Plane {
  Place place;
  const float* x;         // (height, width)
  const float* weight;    // (3, 3)
  float bias;
  const float* residual;  // (out_height, out_width), or null
  Activation activation;
  float* y;               // (out_height, out_width)
};
using Convolve = void (*)(const Plane&) noexcept;

struct Plane8 {
  Place place;
  const float* x;               // (height, width) words
  float outside;                // the word that the image is taken to hold beyond its edges
  const std::uint32_t* weight;  // (parts, 3, 4): of each row and channel three weights and a zero; where parts are two, the
                                // first and third weights, then the second ones
  int channel;                  // the first of the four; of the output too
  std::size_t image;
  std::ptrdiff_t at;            // of the image's first output in channel 0: of floats, or of words
};
using Convolve8 = void (*)(const Plane8&, const conv8::Output&) noexcept;

struct Kernel {
  const char* name;
  Isa isa;
  Convolve convolve[2];  // stride 1, 2
};

struct Kernel8 {
  const char* name;
  Isa isa;
  int parts;
  Convolve8 convolve[2];
};

// By name; null where there is none.
const Kernel* kernel(const char* name) noexcept;
const Kernel8* kernel8(const char* name) noexcept;
// Of the instruction sets up to `isa`.
const Kernel& best(Isa isa) noexcept;
const Kernel8& best8(Isa isa) noexcept;

}  // namespace rarefy::depthwise
