// Sparse weight x image, the convolution of NCHW floats without an im2col matrix.
//
// The SIMD axis is the output columns. A tile is `pixels` rows of one vector of output pixels; for a block of input
// channels its inputs are copied into a panel of whole vectors, one copy for each kernel column, so that every tap of
// every non-zero reads aligned vectors: panel[channel][kernel column][input row][lane]. The panel stays in the L1 cache
// while each group of `rows` output channels walks its non-zeros: broadcast the weight, multiply the `pixels` vectors that
// start at its (channel, tap), add into rows x pixels registers.
//
// The image and the panel are of 32-bit words, here called floats; with 8-bit activations (kernels/conv8) a word holds the
// same pixel of four channels, and so do offsets, counts of input channels and weights.
//
// A vector holds 1, 2 or 4 strips (parts), each `width / parts` columns of one image: narrow planes fill the lanes by
// rows further down or by the next image.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/features.h"

namespace rarefy::conv {

// In the order of rarefy.ops.conv.ACTIVATIONS.
enum class Activation : int { none = 0, relu = 1, relu6 = 2, silu = 3, hardswish = 4, gelu = 5 };

inline constexpr int most_parts = 4;
inline constexpr int most_pixels = 16;

// One block of input channels of the weight for one band of output channels. A group is a count n and `rows` row numbers.
// Apart: n steps of `rows` offsets and values, step by step, row by row. Together (blocks of output channels that share
// their inputs): n offsets, n * rows values. Offsets are vectors of the panel; filling has weight zero and names a place
// that holds zeros.
struct Segment {
  const std::uint16_t* groups;   // (1 + rows) * count
  std::size_t count;
  const std::uint16_t* offsets;
  const std::uint32_t* values;   // floats' bits, or four signed bytes
};

// Memory to be asked for while a tile is worked on: `lines` cache lines at each of `runs` places `stride` bytes apart.
struct Stream {
  const char* at;
  std::ptrdiff_t stride;
  int runs, lines;
  bool to_write;
};
inline constexpr int most_streams = 3;
struct Ahead {
  Stream streams[most_streams];  // one after the other
  int current, each;             // lines asked for at a group
};

// Adds the segment's products into acc (rows of the band, pixels, width). stride: vectors between the inputs of one output
// row and the next. first: acc is written, not added to. panel and acc are aligned to a vector.
using Accumulate = void (*)(const Segment&, const float* panel, float* acc, int stride, bool first, Ahead&) noexcept;

// Which lanes of a strip are inside the image, for one kernel column: `all` in every row but the last, `last` there.
struct Lanes16 {
  std::uint16_t all, last;
};

// `width / parts` columns x `pixels` rows of outputs of one image.
struct Strip {
  const float* x;          // the image
  const Lanes16* inside;   // a kernel column
  int top, left;           // input row and column of tap (0, 0) for the first output; negative in the padding
  std::ptrdiff_t at;       // the first output pixel, in channel 0; negative: nothing here
  std::size_t image;
  float outside;           // what the image is taken to hold beyond its edges
  int rows, columns, last_columns;  // outputs: rows, columns of each, columns of the last one
};

struct Input {
  std::ptrdiff_t channel, row;  // floats from one to the next
  int height;
  int taps, dilation, stride;   // kernel columns, input columns between them, input columns between outputs
  int panel_rows;               // input rows of a tile
};

// Copies input channels [first, first + channels) of `parts` strips into the panel.
using LoadPanel = void (*)(const Input&, const Strip*, int parts, int first, int channels, float* panel) noexcept;

struct Output {
  std::ptrdiff_t channel, row;  // floats from one to the next, of y and of residual
  const float* bias;            // of output channel 0, or null
  Activation activation;
  float* y;                     // all images
  const float* residual;        // beside y, or null
};

// y = act(acc + bias + residual) for `rows` output channels from `first` on; acc (rows, pixels, width).
using Finish = void (*)(const Output&, const Strip*, int parts, int first, int rows, int pixels, const float* acc) noexcept;

// Images across: (channels, height, width, lanes), the same pixel of `width` images in a vector. Nothing is masked, and
// a tile is `pixels` neighbours of one row. The kernel's columns and rows change places: a panel is
// [channel][kernel row][input column][image], and the weight is packed with its window turned.
struct Lines {
  const float* x;
  std::ptrdiff_t channel, row;  // floats from one to the next
  int height, width;
  int taps, dilation;           // kernel rows, input rows between them
  int top, left;                // input row of the first tap, input column of the first pixel; negative in the padding
  int panel_rows;               // input columns of a tile
};
using LoadLines = void (*)(const Lines&, int first, int channels, float* panel) noexcept;

struct LinesOut {
  float* y;               // the first pixel in channel 0
  const float* residual;  // beside y, or null
  std::ptrdiff_t channel;
  int pixels;             // that are inside the image
  const float* bias;
  Activation activation;
};
using FinishLines = void (*)(const LinesOut&, int first, int rows, int pixels, const float* acc) noexcept;

// across[m][image] = images[image * size + m] for m < count, 0 for images beyond `valid`, and back.
using ToAcross = void (*)(const float* images, std::ptrdiff_t size, int valid, int count, float* across) noexcept;
using FromAcross = void (*)(const float* across, std::ptrdiff_t size, int valid, int count, float* images) noexcept;

// What cuts a convolution into tiles and sums them up, whatever a word holds.
struct Tile {
  const char* name;
  Isa isa;
  int rows;       // output channels in a group
  int pixels;     // vectors of output pixels in a tile
  bool together;  // the channels of a group share their inputs
  int width;      // words of a vector
  Accumulate accumulate[3];  // for stride 1, 2, any
  LoadPanel load_panel;
};

struct Kernel {
  Tile tile;
  Finish finish;
  LoadLines load_lines;
  FinishLines finish_lines;
  ToAcross to_across;
  FromAcross from_across;
};

// Every enumerated kernel, in the order of conv.inc.
struct Table {
  const Kernel* const* first;
  std::size_t size;
  const Kernel* const* begin() const noexcept { return first; }
  const Kernel* const* end() const noexcept { return first + size; }
};
Table kernels() noexcept;

}  // namespace rarefy::conv
