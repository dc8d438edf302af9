#include "ops/conv_direct.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::conv_direct {
namespace {

struct Call {
  const Packed& weight;
  const conv::Across& problem;
  const Rows rows;
  const int along;     // tiles in a row
  const int parts;     // of the output channels
  const int lengths;   // runs of rows
};

// The last tile of a row overlaps the one before it where there is one, so that it is whole.
int first_pixel(const Call& call, int tile) {
  const int pixels = call.weight.kernel->pixels;
  return std::max(0, std::min(tile * pixels, call.problem.out_width - pixels));
}

// Pixels whose input column for a tap lies in [0, width).
Span inside(int left, int stride, int pixels, int width) {
  const int first = left >= 0 ? 0 : (-left + stride - 1) / stride;
  const int last = left >= width ? 0 : (width - left + stride - 1) / stride;
  return {std::min(first, pixels), std::min(last, pixels)};
}

// Fills the spans of all taps of the tile at (y, x); whether all are whole.
bool spans_of(const Call& call, int y, int x, int pixels, std::vector<Span>& spans) {
  const conv::Window& w = call.weight.window;
  const conv::Across& p = call.problem;
  bool whole = pixels == call.weight.kernel->pixels;
  for (int i = 0; i < w.height; ++i) {
    const int row = y * w.stride_y - p.top + i * w.dilation_y;
    for (int j = 0; j < w.width; ++j) {
      Span& span = spans[static_cast<std::size_t>(i) * w.width + j];
      span = row < 0 || row >= p.height ? Span{0, 0} : inside(x * w.stride_x - p.left + j * w.dilation_x, w.stride_x, pixels, p.width);
      whole = whole && span.first == 0 && span.last == pixels;
    }
  }
  return whole;
}

void run_tile(const Call& call, int block, int y, int x, int first, int last, std::vector<Span>& spans) {
  const Packed& w = call.weight;
  const conv::Across& p = call.problem;
  const std::ptrdiff_t lanes = w.kernel->width, row = lanes * p.width, channel = row * p.height;
  const std::ptrdiff_t out_channel = lanes * p.out_height * p.out_width;
  const int pixels = std::min(w.kernel->pixels, p.out_width - x);
  const bool whole = spans_of(call, y, x, pixels, spans);
  const float* const image = p.x + static_cast<std::ptrdiff_t>(block) * w.in * w.groups * channel;
  const int top = y * w.window.stride_y - p.top, left = x * w.window.stride_x - p.left;
  const int below = top + (w.window.height - 1) * w.window.dilation_y + w.window.stride_y;  // the next tile's last row
  const bool more = below >= 0 && below < p.height && left >= 0 && left + pixels * w.window.stride_x <= p.width;
  const std::ptrdiff_t at = block * w.out * out_channel + lanes * (static_cast<std::ptrdiff_t>(y) * p.out_width + x);
  const Tile tile{image + top * row + left * lanes,
                  whole ? nullptr : spans.data(),
                  w.window.stride_x,
                  p.y + at,
                  p.residual == nullptr ? nullptr : p.residual + at,
                  out_channel,
                  pixels,
                  p.bias,
                  p.activation,
                  more && w.groups == 1 ? image + below * row + left * lanes : nullptr,
                  channel,
                  w.in};
  w.kernel->convolve[w.window.stride_x == 1 ? 0 : w.window.stride_x == 2 ? 1 : 2](call.rows, tile, first, last);
}

// Down the rows of a column of tiles: the next tile reads most of what this one has read.
void run_task(const Call& call, std::size_t task) {
  const int part = static_cast<int>(task % call.parts);
  const int length = static_cast<int>(task / call.parts % call.lengths);
  const int tile = static_cast<int>(task / call.parts / call.lengths % call.along);
  const int block = static_cast<int>(task / call.parts / call.lengths / call.along);
  const int first = static_cast<int>(static_cast<std::int64_t>(call.weight.out) * part / call.parts);
  const int last = static_cast<int>(static_cast<std::int64_t>(call.weight.out) * (part + 1) / call.parts);
  static thread_local std::vector<Span> spans;
  spans.resize(call.weight.taps());
  for (int y = call.problem.out_height * length / call.lengths; y < call.problem.out_height * (length + 1) / call.lengths; ++y)
    run_tile(call, block, y, first_pixel(call, tile), first, last, spans);
}

}  // namespace

std::shared_ptr<const Places::Offsets> Places::of(const Packed& weight, int height, int width) {
  const std::lock_guard<std::mutex> hold(guard_);
  if (offsets_ != nullptr && height == height_ && width == width_) return offsets_;
  const conv::Window& w = weight.window;
  const std::uint64_t plane = static_cast<std::uint64_t>(height) * width;
  const std::uint64_t reach = static_cast<std::uint64_t>(w.height) * w.dilation_y * width + static_cast<std::uint64_t>(w.width) * w.dilation_x;
  if (plane * weight.in * weight.groups + reach > std::numeric_limits<std::uint32_t>::max())
    throw std::invalid_argument("convolve_across: an image of " + std::to_string(height) + " x " + std::to_string(width) + " in " +
                                std::to_string(weight.in * weight.groups) + " channels is too large for kernel " + weight.kernel->name);
  auto offsets = std::make_shared<Offsets>(weight.values.size());
  const int taps = weight.taps();
  std::size_t i = 0;
  for (int o = 0; o < weight.out; ++o)
    for (int tap = 0; tap < taps; ++tap) {
      const std::uint64_t there = static_cast<std::uint64_t>(tap / w.width) * w.dilation_y * width + static_cast<std::uint64_t>(tap % w.width) * w.dilation_x;
      for (; i < weight.ends[static_cast<std::size_t>(o) * taps + tap]; ++i)
        (*offsets)[i] = static_cast<std::uint32_t>(weight.channels[i] * plane + there);
    }
  height_ = height;
  width_ = width;
  return offsets_ = std::move(offsets);
}

void convolve_across(const Packed& w, Places& places, const conv::Across& p, int threads) {
  if (p.blocks <= 0 || w.out == 0 || p.out_height <= 0 || p.out_width <= 0) return;
  const std::shared_ptr<const Places::Offsets> offsets = places.of(w, p.height, p.width);
  const int along = (p.out_width + w.kernel->pixels - 1) / w.kernel->pixels;
  const double pixels = static_cast<double>(p.blocks) * p.out_height * p.out_width * w.kernel->width;
  threads = threads_for(static_cast<double>(w.values.size() + w.out) * pixels, threads);
  // Rows are cut into a few runs for each thread; output channels only where there are too few rows.
  const int wanted = threads <= 1 ? 1 : (4 * threads + p.blocks * along - 1) / (p.blocks * along);
  const int lengths = std::min(wanted, p.out_height);
  const int parts = std::clamp((wanted + lengths - 1) / lengths, 1, std::max(1, w.out / 16));
  const Call call{w, p, {w.values.data(), offsets->data(), w.ends.data(), w.taps()}, along, parts, lengths};
  parallel_for(static_cast<std::size_t>(p.blocks) * along * lengths * parts, threads, [&](std::size_t task) { run_task(call, task); });
}

}  // namespace rarefy::conv_direct
