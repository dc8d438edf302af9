// The index of a sparse weight in training: which entries of the weight read which place of a panel, for one size of
// image. A linear layer is a convolution whose images are one pixel.
#pragma once

#include <cstdint>
#include <vector>

namespace rarefy::train {

struct Image {
  int channels, height, width;
  std::int64_t size() const { return static_cast<std::int64_t>(channels) * height * width; }
};

struct Geometry {
  Image in;
  int outputs, groups;
  int kernel[2], stride[2], padding[2], dilation[2];  // down, across
  int taps() const { return kernel[0] * kernel[1]; }
  Image out() const;
};

// The places of the output that read the input alike: y0 + step * q, for q < count, in both directions.
struct Part {
  int first[2], count[2];
  std::vector<std::int64_t> begin;  // (channels of the output + 1)
  int shared;                       // rows in a group whose lists are the same
};

// One direction, forward or backward: line q of the output reads lines q * in_stride + low .. high of the input.
struct Side {
  Image in, out;
  int in_stride[2], out_stride[2], low[2], high[2];
  int lines;         // the most that a part has
  int panel_width;   // places in a line of the panel, padding included
  std::vector<Part> parts;
  std::vector<std::int32_t> at;     // by part: (line * channels + channel) * panel_width + place
  std::vector<std::int32_t> order;  // the stored entry of each; empty: as stored
};

// offsets (outputs + 1), columns in [0, channels of a group * taps): checked. Throws std::invalid_argument when places
// or entries are more than 31 bits count.
Side forward_side(const Geometry&, const std::int64_t* offsets, const std::int32_t* columns);
Side backward_side(const Geometry&, const std::int64_t* offsets, const std::int32_t* columns);

}  // namespace rarefy::train
