#include "ops/conv_pooled.h"

#include <algorithm>
#include <cstring>

#include "core/aligned.h"
#include "ops/conv_pool.h"
#include "ops/parallel.h"

namespace rarefy::conv {
namespace {

// Rows of the convolution before the next pooling: enough to pool several rows, few enough for the second-level cache.
constexpr int rows_a_step = 8;

// Rows [low, high) of the convolution's output, in memory (out, capacity, width).
struct Between {
  float* rows;
  int low, high, capacity;
};

int first_needed(const conv_pool::Problem& pool, int r) { return std::max(0, r * pool.stride[0] - pool.padding[0]); }
int end_needed(const conv_pool::Problem& pool, int r) {
  return std::min(pool.height, r * pool.stride[0] - pool.padding[0] + (pool.kernel[0] - 1) * pool.dilation[0] + 1);
}

// Moves what is still needed from row `from` on to the start.
void keep_from(Between& window, int from, int channels, int width) {
  from = std::min(from, window.high);
  const int kept = window.high - from;
  for (int c = 0; c < channels && kept > 0; ++c) {
    float* const plane = window.rows + static_cast<std::size_t>(c) * window.capacity * width;
    std::memmove(plane, plane + static_cast<std::size_t>(from - window.low) * width, sizeof(float) * kept * width);
  }
  window.low = from;
}

// Computes the next rows of one image.
void extend(const Packed& w, const Problem& image, Between& window, int rows) {
  Problem part = image;
  part.top -= window.high * w.window.stride_y;
  part.out_height = rows;
  part.out_channel = static_cast<std::ptrdiff_t>(window.capacity) * image.out_width;
  part.y = window.rows + static_cast<std::size_t>(window.high - window.low) * image.out_width;
  convolve(w, part, 1);
  window.high += rows;
}

void pool_rows(const Packed& w, const conv_pool::Problem& whole, const Between& window, int first, int last, float* y, float* line) {
  conv_pool::Problem part = whole;
  part.x = window.rows;
  part.y = y + static_cast<std::size_t>(first) * whole.out_width;
  part.plane = static_cast<std::ptrdiff_t>(window.capacity) * whole.width;
  part.height = window.high - window.low;
  part.padding[0] = whole.padding[0] + window.low - first * whole.stride[0];
  part.out_height = last - first;
  conv_pool::kernel(allowed_isa()).max_pool(part, 0, w.out, line);
}

// One image, by one thread.
void run_rows(const Packed& w, const Problem& image, const conv_pool::Problem& pool) {
  static thread_local Scratch scratch;
  const int step = (rows_a_step + w.kernel->pixels - 1) / w.kernel->pixels * w.kernel->pixels, reach = (pool.kernel[0] - 1) * pool.dilation[0] + 1;
  const int capacity = step + reach + pool.stride[0];
  const std::size_t floats = static_cast<std::size_t>(w.out) * capacity * image.out_width;
  Between window{scratch.at_least(floats + pool.scratch()), 0, 0, capacity};
  for (int r = 0; r < pool.out_height;) {
    int done = r;
    while (done < pool.out_height && end_needed(pool, done) <= window.high) ++done;
    if (done > r) pool_rows(w, pool, window, r, done, image.y, window.rows + floats);
    r = done;
    if (r == pool.out_height) break;
    const int next = first_needed(pool, r);
    if (next > window.high) window.low = window.high = next;  // the pooling leaves rows out
    else keep_from(window, next, w.out, image.out_width);
    const int wanted = std::min(step, pool.height - window.high);
    extend(w, image, window, std::min(wanted, capacity - (window.high - window.low)));
  }
}

// Too few images to give every thread whole ones: the threads share each image, first its convolution, then its pooling.
void run_together(const Packed& w, const Problem& problem, const conv_pool::Problem& pool, int threads) {
  static thread_local Scratch scratch;
  const std::size_t between = static_cast<std::size_t>(w.out) * pool.height * pool.width;
  float* const memory = scratch.at_least(between);
  for (int i = 0; i < problem.batch; ++i) {
    Problem image = problem;
    image.batch = 1;
    image.x += static_cast<std::size_t>(i) * w.in * w.groups * problem.height * problem.width;
    image.y = memory;
    convolve(w, image, threads);
    conv_pool::Problem pooled = pool;
    pooled.x = memory;
    pooled.y = problem.y + static_cast<std::size_t>(i) * w.out * pool.out_height * pool.out_width;
    conv_pool::max_pool(pooled, w.out, threads);
  }
}

}  // namespace

void convolve_pooled(const Packed& w, const Problem& problem, const conv_pool::Problem& pool, int threads) {
  if (problem.batch <= 0 || w.out == 0 || pool.out_height <= 0 || pool.out_width <= 0) return;
  if (threads > 1 && problem.batch < 4 * threads && problem.batch % threads != 0) return run_together(w, problem, pool, threads);
  parallel_for(static_cast<std::size_t>(problem.batch), threads, [&](std::size_t number) {
    Problem image = problem;
    image.batch = 1;
    image.x += number * w.in * w.groups * problem.height * problem.width;
    image.y += number * w.out * pool.out_height * pool.out_width;
    run_rows(w, image, pool);
  });
}

}  // namespace rarefy::conv
