#include "ops/conv8.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "core/aligned.h"
#include "kernels/quantise/contract.h"
#include "ops/conv_tiles.h"
#include "ops/parallel.h"
#include "ops/quantise.h"
#include "ops/split.h"

namespace rarefy::conv8 {
namespace {

struct Call {
  const Packed& weight;
  const Problem& problem;
};

float outside_of(const void* context, std::size_t image) noexcept {
  return outside(static_cast<const Call*>(context)->problem.x, image);
}

void end(const void* context, const conv::Ended& done) noexcept {
  const auto& [w, p] = *static_cast<const Call*>(context);
  const Output output = output_of(p, {done.plane.out_channel, done.plane.out_width, w.out, w.scale.data(), w.sums.data()});
  w.kernel->finish(output, done.strips, done.parts, w.words.first_row(done.band), w.words.rows_of(done.band),
                   w.kernel->tile.pixels, done.sums);
}

constexpr std::ptrdiff_t piece = 4096;  // pixels that are turned at a time
constexpr double cost = 1.0 / 8;        // of a value, in multiply-adds: what `threads_for` counts

// f(image, four channels, first pixel, pixels) for all pieces of all images of words.
template <class Function>
void each_piece(std::ptrdiff_t batch, int channels, std::ptrdiff_t pixels, int threads, Function f) {
  const std::ptrdiff_t fours = (channels + 3) / 4, pieces = (pixels + piece - 1) / piece;
  threads = threads_for(cost * static_cast<double>(batch) * channels * static_cast<double>(pixels), threads);
  parallel_for(static_cast<std::size_t>(batch * fours * pieces), threads, [&](std::size_t task) {
    const std::ptrdiff_t number = static_cast<std::ptrdiff_t>(task), first = number % pieces * piece;
    f(number / pieces / fours, number / pieces % fours, first, std::min(piece, pixels - first));
  });
}

// The scales of whole images: their range, widened to hold 0, over 255 steps.
void find_scales(const float* x, std::ptrdiff_t batch, std::ptrdiff_t size, float* scale, std::int32_t* zero, float* inverse,
                 int threads) {
  const quantise::Kernel& kernel = quantise::best(allowed_isa());
  threads = threads_for(cost * static_cast<double>(batch) * static_cast<double>(size), threads);
  parallel_for(static_cast<std::size_t>(batch), threads, [&](std::size_t image) {
    constexpr std::ptrdiff_t most = 1 << 24;
    float low = 0.0f, high = 0.0f, poison = 0.0f;
    for (std::ptrdiff_t at = 0; at < size; at += most) {
      float part_low, part_high, part_poison;
      kernel.range(x + static_cast<std::ptrdiff_t>(image) * size + at, static_cast<int>(std::min(most, size - at)), &part_low,
                   &part_high, &part_poison);
      low = std::min(low, part_low);
      high = std::max(high, part_high);
      poison += part_poison;
    }
    const quantise::Scale found = quantise::scale_of(low, high);
    inverse[image] = found.inverse;
    zero[image] = found.zero;
    scale[image] = found.step + poison;  // bytes cannot say that a value was not finite
  });
}

}  // namespace

float outside(const Input& x, std::size_t image) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.zero[image * x.step]) * 0x01010101u);
}

Output output_of(const Problem& p, const Channels& c) noexcept {
  const Result& to = p.to;
  return {c.channel, c.row, c.count, c.weight_scale, c.sums, p.bias, p.activation, p.x.scale, p.x.zero, p.x.step, to.y,
          to.residual, to.bytes, to.residual_bytes, 1.0f / to.scale, to.residual_scale, to.zero, to.residual_zero};
}

void convolve(const Packed& weight, const Problem& p, int threads) {
  const int planes = p.to.y == nullptr ? (weight.out + 3) / 4 : weight.out;
  const conv::Place place{reinterpret_cast<const float*>(p.x.words), p.batch, p.height, p.width, p.top, p.left, p.out_height,
                          p.out_width, planes, 0};
  const Call call{weight, p};
  conv::each_tile(weight.words, place, threads, outside_of, end, &call);
}

void from_floats(const float* x, std::ptrdiff_t batch, int channels, std::ptrdiff_t pixels, bool find, float* scale,
                 std::int32_t* zero, std::uint8_t* words, int threads) {
  if (batch <= 0 || channels <= 0 || pixels <= 0) return;
  static thread_local Scratch scratch;
  float* const inverse = scratch.at_least(static_cast<std::size_t>(batch));
  if (find) find_scales(x, batch, channels * pixels, scale, zero, inverse, threads);
  else inverse[0] = 1.0f / scale[0];
  const Words& kernel = rarefy::conv8::words(allowed_isa());
  const std::ptrdiff_t fours = (channels + 3) / 4;
  each_piece(batch, channels, pixels, threads, [&](std::ptrdiff_t image, std::ptrdiff_t four, std::ptrdiff_t first, std::ptrdiff_t count) {
    const std::ptrdiff_t own = find ? image : 0;
    kernel.from_floats(x + (image * channels + 4 * four) * pixels + first, pixels,
                       static_cast<int>(std::min<std::ptrdiff_t>(4, channels - 4 * four)), count, inverse[own], zero[own],
                       words + 4 * ((image * fours + four) * pixels + first));
  });
}

void to_floats(const std::uint8_t* words, std::ptrdiff_t batch, int channels, std::ptrdiff_t pixels, float scale,
               std::int32_t zero, float* y, int threads) {
  if (batch <= 0 || channels <= 0 || pixels <= 0) return;
  const Words& kernel = rarefy::conv8::words(allowed_isa());
  const std::ptrdiff_t fours = (channels + 3) / 4;
  each_piece(batch, channels, pixels, threads, [&](std::ptrdiff_t image, std::ptrdiff_t four, std::ptrdiff_t first, std::ptrdiff_t count) {
    kernel.to_floats(words + 4 * ((image * fours + four) * pixels + first), pixels,
                     static_cast<int>(std::min<std::ptrdiff_t>(4, channels - 4 * four)), count, scale, zero,
                     y + (image * channels + 4 * four) * pixels + first);
  });
}

void max_pool(const Pool& pool, std::ptrdiff_t planes, int threads) {
  if (planes <= 0 || pool.out_height <= 0 || pool.out_width <= 0) return;
  threads = threads_for(cost * 4 * static_cast<double>(planes) * pool.out_height * pool.out_width * pool.kernel[0], threads);
  const std::ptrdiff_t tasks = std::min<std::ptrdiff_t>(planes, std::max(1, 4 * threads));
  parallel_for(static_cast<std::size_t>(tasks), threads, [&](std::size_t task) {
    static thread_local Scratch scratch;
    float* const line = scratch.at_least(pool.line());
    std::fill(line, line + pool.line(), 0.0f);
    const std::ptrdiff_t number = static_cast<std::ptrdiff_t>(task);
    words(allowed_isa()).max_pool(pool, planes * number / tasks, planes * (number + 1) / tasks, reinterpret_cast<std::uint8_t*>(line));
  });
}

}  // namespace rarefy::conv8
