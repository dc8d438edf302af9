// Cuts a batch of images into tiles whose inputs fit a cache, and lays a tile's inputs across the lanes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/aligned.h"
#include "kernels/train/contract.h"
#include "pack/train.h"

namespace rarefy::train {

// Floats of a panel within the L2 cache (sums across lanes want more images than products), of results within the L1.
inline constexpr std::int64_t panel_budget = 192 * 1024, sample_budget = 256 * 1024, out_floats = 16 * 1024;

// Some images of a batch (`first`, `valid` of them, room for `images`) and lines [from, to) of their outputs' parts.
struct Tile {
  std::int64_t first;
  int valid, images, from, to;

  int shift() const { return __builtin_ctz(static_cast<unsigned>(images)); }
  int panel_lines(const Side& side) const { return (to - from - 1) * side.in_stride[0] + side.high[0] - side.low[0] + 1; }
  std::size_t panel_floats(const Side& side) const;
  int out_first(const Side& side) const { return from * side.out_stride[0]; }
  int out_lines(const Side& side) const;
};

class Tiles {
 public:
  Tiles(const Side& side, std::int64_t batch, std::int64_t budget);
  std::size_t count() const { return blocks_ * strips_; }
  Tile at(std::size_t i) const;

 private:
  std::int64_t batch_;
  int lines_, images_, strip_;
  std::size_t blocks_, strips_;
};

// Inputs of the tile into panel[(line * channels + channel) * panel_width + place][image], zero around and beyond.
void load_tile(const Kernel&, const Side&, const Tile&, const float* x, float* panel);
// Rows [first, last) of the tile's outputs from out[row - first][line][place][image].
void store_tile(const Kernel&, const Side&, const Tile&, int first, int last, const float* out, float* y);
// The same rows into that form.
void load_output(const Kernel&, const Side&, const Tile&, int first, int last, const float* y, float* out);

}  // namespace rarefy::train
