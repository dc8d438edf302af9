#include "ops/winograd.h"

#include <algorithm>
#include <stdexcept>

#include "core/aligned.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::winograd {
namespace {

constexpr std::size_t strip_floats = std::size_t{1} << 16;  // of a strip's values at the points: 256 KB

struct Call {
  const Packed& weight;
  const conv::Across& problem;
  const Pool* pool;  // or null
  int stripes;       // of the rows that are written
  int parts;         // of the output channels

  int rows() const { return pool == nullptr ? problem.out_height : pool->out_height; }
};

// The pooled pixels [from, to) along an axis that read pixels [first, first + outputs) of `size`; how many.
int reaches(const Pool& pool, int axis, int first, int outputs, int size, int from, int to, Reach* reach) {
  const int stride = pool.stride[axis], before = pool.padding[axis], kernel = pool.kernel[axis];
  const int end = std::min(first + outputs, size);
  int count = 0;
  for (int at = std::max(from, (first + before - kernel) / stride); at < to && at * stride - before < end; ++at) {
    const int begin = std::max(at * stride - before, 0), stop = std::min(at * stride - before + kernel, end);
    if (stop <= first) continue;
    reach[count++] = {at, std::max(begin, first) - first, stop - first, begin >= first};
  }
  return count;
}

// `tiles` of them from (y, x) on, along the row.
void run_strip(const Call& call, int block, int y, int x, int tiles, int first, int last, float* v, Pooling* pooling) {
  const Packed& w = call.weight;
  const conv::Across& p = call.problem;
  const Kernel& kernel = *w.kernel;
  const std::ptrdiff_t lanes = kernel.width, row = lanes * p.width, channel = row * p.height;
  Input in{p.x + static_cast<std::ptrdiff_t>(block) * w.in * channel, channel, row, p.height, p.width, w.in, w.window.stride_y,
           w.window.stride_x, y * w.window.stride_y - p.top, x * w.window.stride_x - p.left};
  for (int tile = 0; tile < tiles; ++tile, in.left += kernel.outputs * w.window.stride_x)
    kernel.transform(in, v + static_cast<std::ptrdiff_t>(tile) * points * points * w.phases() * lanes);
  const int high = call.rows(), wide = call.pool == nullptr ? p.out_width : call.pool->out_width;
  const std::ptrdiff_t out_row = lanes * wide, out_channel = out_row * high;
  const std::ptrdiff_t at = block * w.out * out_channel + (call.pool == nullptr ? y * out_row + x * lanes : 0);
  const Strip strip{v,
                    tiles,
                    p.y + at,
                    p.residual == nullptr ? nullptr : p.residual + at,
                    out_channel,
                    out_row,
                    std::min(kernel.outputs, p.out_height - y),
                    std::min(tiles * kernel.outputs, p.out_width - x),
                    p.bias,
                    p.activation,
                    pooling};
  kernel.convolve({w.factors.data(), w.phases(), w.out}, strip, first, last);
}

// Strips go along the rows and down: those that put something into a pooled pixel first come first.
void run_task(const Call& call, std::size_t task) {
  static thread_local Scratch scratch;
  const Packed& w = call.weight;
  const conv::Across& p = call.problem;
  const int outputs = w.kernel->outputs;
  const auto share = [](int of, std::size_t part, int parts) { return static_cast<int>(static_cast<std::int64_t>(of) * part / parts); };
  const std::size_t part = task % call.parts, stripe = task / call.parts % call.stripes;
  const int block = static_cast<int>(task / call.parts / call.stripes);
  const int first = share(w.blocks(), part, call.parts), last = share(w.blocks(), part + 1, call.parts);
  const Pool* const pool = call.pool;
  // Rows [from, to) of what is written; rows [top, bottom) of the convolution that they need.
  const int units = pool == nullptr ? (p.out_height + outputs - 1) / outputs : pool->out_height;
  const int from = share(units, stripe, call.stripes), to = share(units, stripe + 1, call.stripes);
  const int top = pool == nullptr ? from * outputs : std::max(0, from * pool->stride[0] - pool->padding[0]);
  const int bottom = pool == nullptr ? std::min(p.out_height, to * outputs)
                                     : std::min(p.out_height, (to - 1) * pool->stride[0] - pool->padding[0] + pool->kernel[0]);
  // A few strips of like length, whose inputs fit a second-level cache.
  const int tiles = (p.out_width + outputs - 1) / outputs;
  const std::size_t tile = static_cast<std::size_t>(points) * points * w.phases() * w.kernel->width;
  const int most = std::clamp(static_cast<int>(strip_floats / tile), 1, most_tiles);
  const int strips = (tiles + most - 1) / most, each = (tiles + strips - 1) / strips;
  float* const v = scratch.at_least(tile * each);
  Pooling pooling;
  for (int y = top / outputs * outputs; y < bottom; y += outputs) {
    if (pool != nullptr) pooling.row_count = reaches(*pool, 0, y, outputs, p.out_height, from, to, pooling.rows);
    for (int x = 0; x < p.out_width; x += each * outputs) {
      const int count = std::min(each, (p.out_width - x + outputs - 1) / outputs);
      if (pool != nullptr)
        pooling.column_count = reaches(*pool, 1, x, count * outputs, p.out_width, 0, pool->out_width, pooling.columns);
      run_strip(call, block, y, x, count, first, last, v, pool == nullptr ? nullptr : &pooling);
    }
  }
}

void run(const Packed& w, const conv::Across& p, const Pool* pool, int threads) {
  if (p.blocks <= 0 || w.out == 0 || p.out_height <= 0 || p.out_width <= 0) return;
  Call call{w, p, pool, 1, 1};
  const double pixels = static_cast<double>(p.blocks) * p.out_height * p.out_width * w.kernel->width;
  threads = threads_for(static_cast<double>(w.weight.size() + w.out) * pixels, threads);
  // Runs of rows share their inputs with nobody but, where they are pooled, a row of tiles with the next run; output channels
  // are shared out only where there are too few rows.
  const int wanted = threads <= 1 ? 1 : ((pool == nullptr ? 4 : 2) * threads + p.blocks - 1) / p.blocks;
  const int tiles = std::max(1, call.rows() / (pool == nullptr ? w.kernel->outputs : 2 * w.kernel->outputs));
  call.stripes = std::min(wanted, tiles);
  call.parts = std::clamp((wanted + call.stripes - 1) / call.stripes, 1, std::max(1, w.blocks() / 4));
  parallel_for(static_cast<std::size_t>(p.blocks) * call.stripes * call.parts, threads, [&](std::size_t task) { run_task(call, task); });
}

}  // namespace

void convolve_across(const Packed& weight, const conv::Across& problem, int threads) { run(weight, problem, nullptr, threads); }

void convolve_pooled(const Packed& weight, const conv::Across& problem, const Pool& pool, int threads) {
  const int most[] = {most_rows, most_columns}, pixels[] = {most_outputs, most_tiles * most_outputs};
  for (int axis = 0; axis < 2; ++axis)
    if (pool.kernel[axis] < 1 || pool.stride[axis] < 1 || pixels[axis] + pool.kernel[axis] - 1 > most[axis] * pool.stride[axis])
      throw std::invalid_argument("convolve_pooled: the windows of the pooling overlap too much for a tile");
  if (pool.out_height <= 0 || pool.out_width <= 0) return;
  run(weight, problem, &pool, threads);
}

}  // namespace rarefy::winograd
