#include "ops/train_panel.h"

#include <algorithm>
#include <cstring>

namespace rarefy::train {
namespace {

int ceil_unit(std::int64_t images) {
  return static_cast<int>(std::min<std::int64_t>(128, (images + unit - 1) / unit * unit));
}

int power_of_two(int images) {
  int p = unit;
  while (p * 2 <= images) p *= 2;
  return p;
}

// Images of a tile: enough units beside each other to hide the latency of sums, as few as the cache asks for.
int tile_images(const Side& side, std::int64_t batch, std::int64_t budget) {
  int across = 1;
  for (const Part& part : side.parts) across = std::max(across, part.count[1]);
  if (side.in_stride[1] != 1 || side.out_stride[1] != 1) return unit;
  const std::int64_t line = static_cast<std::int64_t>(side.in.channels) * side.panel_width;
  const std::int64_t least = std::max<std::int64_t>(1, line * (side.high[0] - side.low[0] + 1));
  const std::int64_t wanted = std::max(1, 8 / across) * unit, fitting = std::max<std::int64_t>(unit, budget / least);
  return power_of_two(static_cast<int>(std::min<std::int64_t>({wanted, fitting, 2 * ceil_unit(batch) - 1})));
}

struct Span {
  int first, count;
};

Span inside(int from, int count, int size) {  // of `count` places from `from`, those within [0, size)
  const int first = std::max(0, from);
  return {first, std::max(0, std::min(size, from + count) - first)};
}

void zero(float* to, std::ptrdiff_t floats) { std::memset(to, 0, static_cast<std::size_t>(floats) * sizeof(float)); }

struct Load {
  const Kernel& kernel;
  const Side& side;
  const Tile& tile;
  const float* x;  // of the tile's first image
  float* panel;
  Span lines, across;
  int top;  // the input line of the panel's first

  std::ptrdiff_t size() const { return side.in.size(); }
  float* line(int channel, int y) const {
    return panel + (static_cast<std::ptrdiff_t>(y - top) * side.in.channels + channel) * side.panel_width * tile.images;
  }
  const float* from(int channel, int y) const {
    return x + (static_cast<std::ptrdiff_t>(channel) * side.in.height + y) * side.in.width;
  }
};

void load_channel(const Load& l, int channel, float* lines) {
  const int left = l.across.first - l.side.low[1], width = l.side.in.width, images = l.tile.images;
  const bool direct = width % 4 == 0;
  if (!direct)
    l.kernel.load(l.from(channel, l.lines.first), l.size(), l.tile.valid, l.lines.count * width, images, lines);
  for (int y = l.lines.first; y < l.lines.first + l.lines.count; ++y) {
    float* const to = l.line(channel, y);
    float* const begin = to + static_cast<std::ptrdiff_t>(left) * images;
    const std::ptrdiff_t floats = static_cast<std::ptrdiff_t>(l.across.count) * images;
    zero(to, begin - to);
    if (direct) {
      l.kernel.load(l.from(channel, y) + l.across.first, l.size(), l.tile.valid, l.across.count, images, begin);
    } else {
      const std::ptrdiff_t from = static_cast<std::ptrdiff_t>(y - l.lines.first) * width + l.across.first;
      std::memcpy(begin, lines + from * images, static_cast<std::size_t>(floats) * sizeof(float));
    }
    zero(begin + floats, static_cast<std::ptrdiff_t>(l.side.panel_width - left - l.across.count) * images);
  }
}

std::ptrdiff_t offset(const Side& side, const Tile& tile) {  // of the tile's outputs
  return tile.first * side.out.size() + static_cast<std::ptrdiff_t>(tile.out_first(side)) * side.out.width;
}

}  // namespace

std::size_t Tile::panel_floats(const Side& side) const {
  return static_cast<std::size_t>(panel_lines(side)) * side.in.channels * side.panel_width * images;
}

int Tile::out_lines(const Side& side) const {
  return std::min(to * side.out_stride[0], side.out.height) - out_first(side);
}

Tiles::Tiles(const Side& side, std::int64_t batch, std::int64_t budget)
    : batch_(batch), lines_(side.lines), images_(tile_images(side, batch, budget)) {
  const std::int64_t line = static_cast<std::int64_t>(side.in.channels) * side.panel_width * images_;
  const std::int64_t lines = budget / std::max<std::int64_t>(1, line), taps = side.high[0] - side.low[0] + 1;
  const std::int64_t fitting = (lines - taps) / side.in_stride[0] + 1;
  const int most = static_cast<int>(std::clamp<std::int64_t>(fitting, 1, std::max(1, lines_)));
  strips_ = lines_ == 0 ? 0 : (lines_ + most - 1) / most;
  strip_ = strips_ == 0 ? 1 : static_cast<int>((lines_ + strips_ - 1) / strips_);
  strips_ = lines_ == 0 ? 0 : (lines_ + strip_ - 1) / strip_;
  blocks_ = static_cast<std::size_t>((batch + images_ - 1) / images_);
}

Tile Tiles::at(std::size_t i) const {
  const std::int64_t first = static_cast<std::int64_t>(i / strips_) * images_;
  const int from = static_cast<int>(i % strips_) * strip_;
  const int valid = static_cast<int>(std::min<std::int64_t>(images_, batch_ - first));
  return {first, valid, images_, from, std::min(lines_, from + strip_)};
}

void load_tile(const Kernel& kernel, const Side& side, const Tile& tile, const float* x, float* panel) {
  const float* const from = x + tile.first * side.in.size();
  const bool one = side.in.height == 1 && side.in.width == 1 && tile.panel_lines(side) == 1 && side.panel_width == 1;
  if (one && side.low[0] == 0 && side.low[1] == 0)
    return kernel.load(from, side.in.channels, tile.valid, side.in.channels, tile.images, panel);
  const int top = tile.from * side.in_stride[0] + side.low[0], lines = tile.panel_lines(side);
  const Load load{kernel, side, tile, from, panel, inside(top, lines, side.in.height),
                  inside(side.low[1], side.panel_width, side.in.width), top};
  const std::ptrdiff_t line = static_cast<std::ptrdiff_t>(side.in.channels) * side.panel_width * tile.images;
  if (load.lines.count == 0 || load.across.count == 0) return zero(panel, lines * line);
  zero(panel, (load.lines.first - top) * line);
  const int below = load.lines.first + load.lines.count - top;
  zero(panel + below * line, (lines - below) * line);
  static thread_local Scratch scratch;
  float* const temporary = scratch.at_least(static_cast<std::size_t>(load.lines.count) * side.in.width * tile.images);
  for (int channel = 0; channel < side.in.channels; ++channel) load_channel(load, channel, temporary);
}

void store_tile(const Kernel& kernel, const Side& side, const Tile& tile, int first, int last, const float* out,
                float* y) {
  const std::ptrdiff_t places = static_cast<std::ptrdiff_t>(tile.out_lines(side)) * side.out.width;
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(side.out.height) * side.out.width;
  float* const to = y + offset(side, tile);
  const int rows = places == plane ? last - first : 1;  // whole planes lie one after another
  for (int row = first; row < last; row += rows)
    kernel.finish(out + (row - first) * places * tile.images, static_cast<int>(rows * places), tile.images, tile.valid,
                  to + row * plane, side.out.size());
}

void load_output(const Kernel& kernel, const Side& side, const Tile& tile, int first, int last, const float* y,
                 float* out) {
  const std::ptrdiff_t places = static_cast<std::ptrdiff_t>(tile.out_lines(side)) * side.out.width;
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(side.out.height) * side.out.width;
  const float* const from = y + offset(side, tile);
  const int rows = places == plane ? last - first : 1;
  for (int row = first; row < last; row += rows)
    kernel.load(from + row * plane, side.out.size(), tile.valid, static_cast<int>(rows * places), tile.images,
                out + (row - first) * places * tile.images);
}

}  // namespace rarefy::train
