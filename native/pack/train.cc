#include "pack/train.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>

namespace rarefy::train {
namespace {

constexpr double most_places = 1 << 25;  // that one line of results reads: 2 GB for 16 images

int out_size(int in, int kernel, int stride, int padding, int dilation) {
  return (in + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

int size_of(const Image& image, int axis) { return axis == 0 ? image.height : image.width; }

void set_panel(Side& side) {
  int across = 0;
  side.lines = 0;
  for (const Part& part : side.parts) {
    side.lines = std::max(side.lines, part.count[0]);
    across = std::max(across, part.count[1]);
  }
  side.panel_width = std::max(0, across - 1) * side.in_stride[1] + side.high[1] - side.low[1] + 1;
  const double line = static_cast<double>(side.panel_width) * side.in.channels, taps = side.high[0] - side.low[0] + 1;
  const double places = (std::max(0, side.lines - 1) * static_cast<double>(side.in_stride[0]) + taps) * line;
  if (places > std::numeric_limits<std::int32_t>::max() || taps * line > most_places)
    throw std::invalid_argument("sparse training: images of " + std::to_string(side.in.channels) + " channels of " +
                                std::to_string(side.in.height) + " x " + std::to_string(side.in.width) +
                                " with this window and padding are too large for the index; keep the layer dense");
}

bool same_lists(const Part& part, const std::int32_t* at, int row, int shared) {
  const std::int64_t n = part.begin[row + 1] - part.begin[row];
  for (int r = row + 1; r < row + shared; ++r)
    if (part.begin[r + 1] - part.begin[r] != n ||
        !std::equal(at + part.begin[row], at + part.begin[row + 1], at + part.begin[r]))
      return false;
  return true;
}

int shared_rows(const Part& part, const std::int32_t* at) {
  const int rows = static_cast<int>(part.begin.size()) - 1;
  for (const int shared : {4, 2}) {
    bool all = rows % shared == 0;
    for (int row = 0; all && row < rows; row += shared) all = same_lists(part, at, row, shared);
    if (all) return shared;
  }
  return 1;
}

struct Tap {
  int channel, at[2];
};

// The input channel and the tap of an entry.
Tap tap_of(const Geometry& g, int row, int column) {
  const int per_group = g.in.channels / g.groups, group = row / (g.outputs / g.groups), tap = column % g.taps();
  return {group * per_group + column / g.taps(), {tap / g.kernel[1], tap % g.kernel[1]}};
}

std::int32_t place(const Side& side, int channel, int line, int across) {
  const std::int64_t row = static_cast<std::int64_t>(line - side.low[0]) * side.in.channels + channel;
  return static_cast<std::int32_t>(row * side.panel_width + across - side.low[1]);
}

int remainder(int a, int b) { return (a % b + b) % b; }

// Where input places of one remainder by the stride find their outputs, for a tap: q + offset.
struct Back {
  int remainder, offset;
};

Back back_of(const Geometry& g, int axis, int tap) {
  const int shift = tap * g.dilation[axis] - g.padding[axis], rest = remainder(shift, g.stride[axis]);
  return {rest, (rest - shift) / g.stride[axis]};
}

void set_back_range(Side& side, const Geometry& g, int axis) {
  side.low[axis] = std::numeric_limits<int>::max();
  side.high[axis] = std::numeric_limits<int>::min();
  for (int tap = 0; tap < g.kernel[axis]; ++tap) {
    const int offset = back_of(g, axis, tap).offset;
    side.low[axis] = std::min(side.low[axis], offset);
    side.high[axis] = std::max(side.high[axis], offset);
  }
}

void add_back_parts(Side& side, const Geometry& g) {
  for (int y = 0; y < g.stride[0]; ++y)
    for (int x = 0; x < g.stride[1]; ++x) {
      Part part{{y, x}, {0, 0}, std::vector<std::int64_t>(g.in.channels + 1), 1};
      for (int axis = 0; axis < 2; ++axis)
        part.count[axis] = std::max(0, (size_of(g.in, axis) - part.first[axis] + g.stride[axis] - 1) / g.stride[axis]);
      side.parts.push_back(std::move(part));
    }
}

}  // namespace

Image Geometry::out() const {
  return {outputs, out_size(in.height, kernel[0], stride[0], padding[0], dilation[0]),
          out_size(in.width, kernel[1], stride[1], padding[1], dilation[1])};
}

Side forward_side(const Geometry& g, const std::int64_t* offsets, const std::int32_t* columns) {
  Side side{g.in, g.out(), {g.stride[0], g.stride[1]}, {1, 1}, {-g.padding[0], -g.padding[1]}, {}, 0, 0, {}, {}, {}};
  for (int axis = 0; axis < 2; ++axis) side.high[axis] = (g.kernel[axis] - 1) * g.dilation[axis] - g.padding[axis];
  side.parts.push_back({{0, 0}, {side.out.height, side.out.width}, {offsets, offsets + g.outputs + 1}, 1});
  set_panel(side);
  side.at.resize(offsets[g.outputs]);
  for (int row = 0; row < g.outputs; ++row)
    for (std::int64_t e = offsets[row]; e < offsets[row + 1]; ++e) {
      const Tap tap = tap_of(g, row, columns[e]);
      const int line = tap.at[0] * g.dilation[0] - g.padding[0], across = tap.at[1] * g.dilation[1] - g.padding[1];
      side.at[e] = place(side, tap.channel, line, across);
    }
  side.parts[0].shared = shared_rows(side.parts[0], side.at.data());
  return side;
}

Side backward_side(const Geometry& g, const std::int64_t* offsets, const std::int32_t* columns) {
  if (offsets[g.outputs] > std::numeric_limits<std::int32_t>::max())
    throw std::invalid_argument("sparse training: " + std::to_string(offsets[g.outputs]) +
                                " entries are more than 31 bits count");
  Side side{g.out(), g.in, {1, 1}, {g.stride[0], g.stride[1]}, {}, {}, 0, 0, {}, {}, {}};
  for (int axis = 0; axis < 2; ++axis) set_back_range(side, g, axis);
  add_back_parts(side, g);
  set_panel(side);
  const auto part_of = [&](const Tap& tap) {
    return back_of(g, 0, tap.at[0]).remainder * g.stride[1] + back_of(g, 1, tap.at[1]).remainder;
  };
  for (int row = 0; row < g.outputs; ++row)
    for (std::int64_t e = offsets[row]; e < offsets[row + 1]; ++e) {
      const Tap tap = tap_of(g, row, columns[e]);
      ++side.parts[part_of(tap)].begin[tap.channel + 1];
    }
  std::vector<std::vector<std::int64_t>> next;
  std::int64_t sum = 0;
  for (Part& part : side.parts) {
    part.begin[0] = sum;
    for (int c = 0; c < g.in.channels; ++c) part.begin[c + 1] += part.begin[c];
    sum = part.begin.back();
    next.push_back(part.begin);
  }
  side.at.resize(sum);
  side.order.resize(sum);
  for (int row = 0; row < g.outputs; ++row)
    for (std::int64_t e = offsets[row]; e < offsets[row + 1]; ++e) {
      const Tap tap = tap_of(g, row, columns[e]);
      const std::int64_t to = next[part_of(tap)][tap.channel]++;
      side.at[to] = place(side, row, back_of(g, 0, tap.at[0]).offset, back_of(g, 1, tap.at[1]).offset);
      side.order[to] = static_cast<std::int32_t>(e);
    }
  for (Part& part : side.parts) part.shared = shared_rows(part, side.at.data());
  return side;
}

}  // namespace rarefy::train
