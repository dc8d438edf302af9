#include "ops/depthwise.h"

#include <algorithm>

#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::depthwise {
namespace {

// f(image, plane) for all of `planes` planes of every image, runs of planes a task.
template <class Function>
void each_plane(int batch, int planes, double work, int threads, Function f) {
  threads = threads_for(work, threads);
  const std::size_t all = static_cast<std::size_t>(batch) * planes;
  const std::size_t runs = threads <= 1 ? 1 : std::min<std::size_t>(all, 8 * static_cast<std::size_t>(threads));
  parallel_for(runs, threads, [&](std::size_t run) {
    for (std::size_t i = all * run / runs; i < all * (run + 1) / runs; ++i) f(i / planes, static_cast<int>(i % planes));
  });
}

template <class P>
Place place_of(const P& p) {
  return {p.height, p.width, p.top, p.left, p.out_height, p.out_width};
}

template <class P>
double work_of(int channels, const P& p) {
  return 9.0 * channels * p.batch * p.out_height * p.out_width;
}

}  // namespace

void convolve(const Packed& w, const conv::Problem& p, int threads) {
  if (p.batch <= 0 || w.channels == 0 || p.out_height <= 0 || p.out_width <= 0) return;
  const std::size_t in = static_cast<std::size_t>(p.height) * p.width, out = static_cast<std::size_t>(p.out_height) * p.out_width;
  const Convolve run = w.kernel->convolve[w.stride - 1];
  each_plane(p.batch, w.channels, work_of(w.channels, p), threads, [&](std::size_t image, int c) {
    const std::size_t plane = image * w.channels + c;
    run({place_of(p), p.x + plane * in, w.weight.data() + 9 * static_cast<std::size_t>(c), p.bias == nullptr ? 0.0f : p.bias[c],
         p.residual == nullptr ? nullptr : p.residual + plane * out, p.activation, p.y + plane * out});
  });
}

void convolve8(const Packed8& w, const conv8::Problem& p, int threads) {
  if (p.batch <= 0 || w.channels == 0 || p.out_height <= 0 || p.out_width <= 0) return;
  const int fours = (w.channels + 3) / 4;
  const std::size_t in = static_cast<std::size_t>(p.height) * p.width;
  const std::ptrdiff_t out = static_cast<std::ptrdiff_t>(p.out_height) * p.out_width;
  const conv8::Output output = conv8::output_of(p, {out, p.out_width, w.channels, w.scale.data(), w.sums.data()});
  const Convolve8 run = w.kernel->convolve[w.stride - 1];
  const float* const x = reinterpret_cast<const float*>(p.x.words);
  each_plane(p.batch, fours, work_of(w.channels, p), threads, [&](std::size_t image, int four) {
    run({place_of(p), x + (image * fours + four) * in, conv8::outside(p.x, image),
         w.weight.data() + static_cast<std::size_t>(four) * w.kernel->parts * 12, 4 * four, image,
         static_cast<std::ptrdiff_t>(image) * (p.to.y == nullptr ? fours : w.channels) * out},
        output);
  });
}

}  // namespace rarefy::depthwise
