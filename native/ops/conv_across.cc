#include "ops/conv_across.h"

#include <algorithm>

#include "core/aligned.h"
#include "ops/conv.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::conv {
namespace {

// One row's run of `pixels` outputs of one block of images.
struct Tile {
  int block, y, x;
};

std::size_t groups_of(const Packed& w, int first, int last) {
  std::size_t groups = 1;
  for (int band = first; band < last; ++band)
    for (int b = 0; b < w.blocks(); ++b) groups += w.segment(band, b).count;
  return groups;
}

// What a tile needs next: lines of its outputs, of its residual, and the inputs of the tile after it that are new.
Ahead next_memory(const Packed& w, const Lines& in, const LinesOut& out, int first, int last) {
  const auto bytes = [](std::ptrdiff_t floats) { return static_cast<std::ptrdiff_t>(sizeof(float)) * floats; };
  const auto place = [](const float* at) { return reinterpret_cast<const char*>(at); };
  const int lines = w.kernel->width * static_cast<int>(sizeof(float)) * out.pixels / 64;
  const int rows = w.first_row(last - 1) + w.rows_of(last - 1) - w.first_row(first);
  const std::ptrdiff_t at = w.first_row(first) * out.channel;
  const int row = std::min(in.top + (in.taps - 1) * in.dilation, in.height - 1), column = in.left + in.panel_rows;
  const bool more = row >= 0 && column >= 0 && column + out.pixels * w.window.stride_y <= in.width;
  const float* const next = in.x + first / w.bands_a_group() * w.in * in.channel + row * in.row +
                            static_cast<std::ptrdiff_t>(column) * w.kernel->width;
  Ahead ahead{{{place(out.y + at), bytes(out.channel), rows, lines, true},
               {place(out.residual == nullptr ? nullptr : out.residual + at), bytes(out.channel),
                out.residual == nullptr ? 0 : rows, lines, false},
               {place(next), bytes(in.channel), more ? w.in : 0, lines * w.window.stride_y, false}},
              0,
              0};
  int total = 0;
  for (const Stream& s : ahead.streams) total += s.runs * s.lines;
  ahead.each = static_cast<int>((total + groups_of(w, first, last) - 1) / groups_of(w, first, last));
  return ahead;
}

void run_group(const Packed& w, const Across& p, const Tile& tile, int first, int last, float* panel, float* sums) {
  const Kernel& kernel = kernel_of(w);
  const int pixels = kernel.tile.pixels;
  const std::ptrdiff_t lanes = kernel.tile.width, channel = lanes * p.height * p.width, out_channel = lanes * p.out_height * p.out_width;
  const Lines in{p.x + static_cast<std::ptrdiff_t>(tile.block) * w.in * w.groups * channel,
                 channel,
                 lanes * p.width,
                 p.height,
                 p.width,
                 w.window.width,
                 w.window.dilation_x,
                 tile.y * w.window.stride_x - p.top,
                 tile.x * w.window.stride_y - p.left,
                 w.panel_rows()};
  const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(tile.block) * w.out * out_channel +
                            lanes * (static_cast<std::ptrdiff_t>(tile.y) * p.out_width + tile.x);
  const LinesOut out{p.y + at, p.residual == nullptr ? nullptr : p.residual + at, out_channel,
                     std::min(pixels, p.out_width - tile.x), p.bias, p.activation};
  const std::size_t band_sums = static_cast<std::size_t>(w.padded_rows()) * pixels * kernel.tile.width;
  const Accumulate accumulate = kernel.tile.accumulate[w.window.stride_y == 1 ? 0 : w.window.stride_y == 2 ? 1 : 2];
  const int channels = first / w.bands_a_group() * w.in;
  Ahead ahead = next_memory(w, in, out, first, last);
  for (int b = 0; b < w.blocks(); ++b) {
    kernel.load_lines(in, channels + b * w.block, w.in == 0 ? 0 : w.channels_of(b), panel);
    for (int band = first; band < last; ++band) {
      float* const acc = sums + band_sums * (band - first);
      accumulate(w.segment(band, b), panel, acc, w.window.stride_y, b == 0, ahead);
      if (b + 1 == w.blocks()) kernel.finish_lines(out, w.first_row(band), w.rows_of(band), pixels, acc);
    }
  }
}

void run_tile(const Packed& w, const Across& p, const Tile& tile) {
  static thread_local Scratch scratch;
  const std::size_t panel_floats = w.panel_vectors() * w.kernel->width;
  const std::size_t sums = static_cast<std::size_t>(w.bands_a_group()) * w.padded_rows() * w.kernel->pixels * w.kernel->width;
  float* const panel = scratch.at_least(panel_floats + sums);
  const std::size_t filling = static_cast<std::size_t>(w.panel_rows()) * w.kernel->width;
  std::fill(panel + panel_floats - filling, panel + panel_floats, 0.0f);
  for (int g = 0; g < w.groups; ++g)
    run_group(w, p, tile, g * w.bands_a_group(), (g + 1) * w.bands_a_group(), panel, panel + panel_floats);
}

constexpr std::ptrdiff_t piece = 4096;  // pixels that are turned at a time

template <class Turn>
void turn(const Kernel& kernel, std::ptrdiff_t count, std::ptrdiff_t size, int threads, Turn&& f) {
  const std::ptrdiff_t blocks = (count + kernel.tile.width - 1) / kernel.tile.width, pieces = (size + piece - 1) / piece;
  threads = threads_for(static_cast<double>(count) * size, threads);
  parallel_for(static_cast<std::size_t>(blocks * pieces), threads, [&](std::size_t task) {
    const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(task) / pieces, first = static_cast<std::ptrdiff_t>(task) % pieces * piece;
    const int valid = static_cast<int>(std::min<std::ptrdiff_t>(kernel.tile.width, count - block * kernel.tile.width));
    f(block * kernel.tile.width * size + first, (block * size + first) * kernel.tile.width, valid,
      static_cast<int>(std::min(piece, size - first)));
  });
}

}  // namespace

void convolve_across(const Packed& w, const Across& p, int threads) {
  if (p.blocks <= 0 || w.out == 0 || p.out_height <= 0 || p.out_width <= 0) return;
  const int along = (p.out_width + w.kernel->pixels - 1) / w.kernel->pixels;
  const std::size_t tiles = static_cast<std::size_t>(p.blocks) * p.out_height * along;
  threads = threads_for(static_cast<double>(w.values.size() + w.out) * static_cast<double>(tiles) * w.kernel->pixels * w.kernel->width, threads);
  const std::size_t runs = std::min<std::size_t>(tiles, threads <= 1 ? 1 : 4 * threads);
  parallel_for(runs, threads, [&](std::size_t run) {
    for (std::size_t t = tiles * run / runs; t < tiles * (run + 1) / runs; ++t)
      run_tile(w, p, {static_cast<int>(t / along / p.out_height), static_cast<int>(t / along % p.out_height),
                      static_cast<int>(t % along) * w.kernel->pixels});
  });
}

void to_across(const Kernel& kernel, const float* images, std::ptrdiff_t count, std::ptrdiff_t size, float* across, int threads) {
  turn(kernel, count, size, threads, [&](std::ptrdiff_t from, std::ptrdiff_t to, int valid, int pixels) {
    kernel.to_across(images + from, size, valid, pixels, across + to);
  });
}

void from_across(const Kernel& kernel, const float* across, std::ptrdiff_t count, std::ptrdiff_t size, float* images, int threads) {
  turn(kernel, count, size, threads, [&](std::ptrdiff_t to, std::ptrdiff_t from, int valid, int pixels) {
    kernel.from_across(across + from, size, valid, pixels, images + to);
  });
}

}  // namespace rarefy::conv
