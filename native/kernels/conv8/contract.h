// Sparse 8-bit weight x 8-bit image: the tiles of kernels/conv on words that hold the same pixel of four channels, with
// sums of products in 32 bits. Stored are words of four signed bytes, a tap of four input channels; one of zeros is not.
//
// An image of words is (channels / 4, height, width, 4) bytes; where the channels are no multiple of four, the last bytes
// of its last words are anything.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/conv/contract.h"

namespace rarefy::conv8 {

using conv::Activation;

// y = act(weight_scale scale (sum - zero sums) + bias + residual): floats, or bytes round(y inverse) + to_zero.
// The arrays of output channels go up to a multiple of four, `bias` does not.
struct Output {
  std::ptrdiff_t channel, row;  // from one to the next: of floats, or of words
  int channels;
  const float* weight_scale;
  const std::int32_t* sums;     // of a channel's weights
  const float* bias;            // or null
  Activation activation;
  const float* scale;           // of the input, `step` from image to image, and its zero
  const std::int32_t* zero;
  int step;
  float* y;                     // all images (channels, height, width), or null
  const float* residual;        // beside y, or null
  std::uint8_t* bytes;          // where y is null: all images, in words
  const std::uint8_t* residual_bytes;  // beside bytes, or null
  float inverse, residual_scale;
  std::int32_t to_zero, residual_zero;
};

// The results of `rows` output channels from `first` on, a multiple of four; sums (rows up to a multiple of four, pixels,
// width).
using Finish = void (*)(const Output&, const conv::Strip*, int parts, int first, int rows, int pixels, const float* sums) noexcept;

struct Kernel {
  conv::Tile tile;
  bool exact_pairs;  // false: conv::Words::apart_bytes
  Finish finish;
};

struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;  // in the order of conv8.inc

// Largest of each window of words (planes, height, width, 4); pairs are (down, across).
struct Pool {
  const std::uint8_t* x;
  std::uint8_t* y;
  int height, width, out_height, out_width;
  int kernel[2], stride[2], padding[2], dilation[2];
  // Words of a line: the padding, the row, whatever the last window reaches beyond it.
  std::size_t line() const {
    const int reach = (out_width - 1) * stride[1] + (kernel[1] - 1) * dilation[1] + 1, row = padding[1] + width;
    return static_cast<std::size_t>(row > reach ? row : reach) + 64;
  }
};

// What is not bound to a kernel, by instruction set.
struct Words {
  // `count` pixels of up to four planes of floats `plane` apart as words: round(x inverse) + zero, saturated.
  void (*from_floats)(const float* x, std::ptrdiff_t plane, int channels, std::ptrdiff_t count, float inverse,
                      std::int32_t zero, std::uint8_t* words) noexcept;
  // And back: scale (q - zero).
  void (*to_floats)(const std::uint8_t* words, std::ptrdiff_t plane, int channels, std::ptrdiff_t count, float scale,
                    std::int32_t zero, float* y) noexcept;
  // line: of p.line() words of zeros; those in the padding stay zeros.
  void (*max_pool)(const Pool& p, std::ptrdiff_t first, std::ptrdiff_t last, std::uint8_t* line) noexcept;
};
const Words& words(Isa isa) noexcept;  // of the instruction sets up to `isa`

}  // namespace rarefy::conv8
