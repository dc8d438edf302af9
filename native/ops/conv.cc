#include "ops/conv.h"

#include "ops/conv_tiles.h"

namespace rarefy::conv {
namespace {

struct Call {
  const Packed& weight;
  const Kernel& kernel;
  const Problem& problem;
};

float zeros(const void*, std::size_t) noexcept { return 0.0f; }

void end(const void* context, const Ended& done) noexcept {
  const Call& call = *static_cast<const Call*>(context);
  const Problem& p = call.problem;
  const Output output{done.plane.out_channel, done.plane.out_width, p.bias, p.activation, p.y, p.residual};
  call.kernel.finish(output, done.strips, done.parts, call.weight.first_row(done.band), call.weight.rows_of(done.band),
                     call.kernel.tile.pixels, done.sums);
}

}  // namespace

void convolve(const Packed& weight, const Problem& p, int threads) {
  const Place place{p.x, p.batch, p.height, p.width, p.top, p.left, p.out_height, p.out_width, weight.out, p.out_channel};
  const Call call{weight, kernel_of(weight), p};
  each_tile(weight, place, threads, zeros, end, &call);
}

}  // namespace rarefy::conv
