// The sparse 8-bit convolution of images of words, and the ways into that layout, out of it and through a pooling in it.
#pragma once

#include "pack/conv8.h"

namespace rarefy::conv8 {

// x ~ scale (q - zero): `step` 1, each image has its own scale and zero; 0, all have the first.
struct Input {
  const std::uint8_t* words;  // (batch, channels / 4, height, width, 4)
  const float* scale;
  const std::int32_t* zero;
  int step;
};

// Floats (batch, channels, height, width), or where `y` is null words of bytes; a residual is like the result.
struct Result {
  float* y;
  const float* residual;
  std::uint8_t* bytes;
  const std::uint8_t* residual_bytes;
  float scale, residual_scale;
  std::int32_t zero, residual_zero;
};

struct Problem {
  Input x;
  int batch, height, width;
  int top, left;  // padding
  int out_height, out_width;
  const float* bias;  // (out) or null
  Activation activation;
  Result to;
};

void convolve(const Packed& weight, const Problem& problem, int threads);

// What the kernels are told of a problem: distances in the output and what belongs to the weight.
struct Channels {
  std::ptrdiff_t channel, row;
  int count;
  const float* weight_scale;
  const std::int32_t* sums;
};
Output output_of(const Problem& problem, const Channels& channels) noexcept;
// The word of bytes that stand for 0 in an image.
float outside(const Input& x, std::size_t image) noexcept;

// Floats (batch, channels, pixels) to words. With `find` each image's scale and zero are found and written, else they are
// the first of those given. A value that is not finite makes a scale that was found NaN.
void from_floats(const float* x, std::ptrdiff_t batch, int channels, std::ptrdiff_t pixels, bool find, float* scale,
                 std::int32_t* zero, std::uint8_t* words, int threads);
// And back, all images of one scale.
void to_floats(const std::uint8_t* words, std::ptrdiff_t batch, int channels, std::ptrdiff_t pixels, float scale,
               std::int32_t zero, float* y, int threads);

void max_pool(const Pool& pool, std::ptrdiff_t planes, int threads);

}  // namespace rarefy::conv8
