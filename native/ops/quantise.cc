#include "ops/quantise.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/aligned.h"
#include "kernels/quantise/contract.h"
#include "ops/parallel.h"
#include "ops/split.h"

namespace rarefy::quantise {
namespace {

constexpr std::ptrdiff_t chunk = 32;  // tokens in a task
constexpr double cost = 1.0 / 8;      // of a value, in multiply-adds: what `threads_for` counts

struct Scratch8 {
  AlignedVector<std::uint8_t> values;
  AlignedVector<float> scale;
  AlignedVector<std::int32_t> zero;
};

template <class Function>
void each_token(std::ptrdiff_t tokens, int features, int threads, Function f) {
  threads = threads_for(cost * static_cast<double>(tokens) * features, threads);
  parallel_for(static_cast<std::size_t>((tokens + chunk - 1) / chunk), threads, [&](std::size_t task) {
    const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(task) * chunk;
    for (std::ptrdiff_t t = first; t < std::min(first + chunk, tokens); ++t) f(t);
  });
}

}  // namespace

Scale scale_of(float low, float high) noexcept {
  // Halves first, and no denormal: neither the width of the range nor the inverse of the step may overflow.
  const float step = low == high ? 1.0f : std::max(high / 255.0f - low / 255.0f, std::numeric_limits<float>::min());
  const float inverse = 1.0f / step;
  return {step, inverse, std::clamp(static_cast<std::int32_t>(std::nearbyintf(std::min(-low * inverse, 255.0f))), 0, 255)};
}

void row(const Kernel& kernel, const float* x, int features, std::uint8_t* values, float* scale, std::int32_t* zero) noexcept {
  float low, high, poison;
  kernel.range(x, features, &low, &high, &poison);
  const Scale found = scale_of(low, high);
  *zero = found.zero;
  *scale = found.step + poison;  // bytes cannot say that a value was not finite: every result of the row becomes a NaN
  kernel.round(x, features, found.inverse, *zero, values);
}

void rows(const float* x, std::ptrdiff_t tokens, int features, std::uint8_t* values, std::ptrdiff_t stride, float* scale,
          std::int32_t* zero, int threads) {
  const Kernel& kernel = best(allowed_isa());
  each_token(tokens, features, threads, [&](std::ptrdiff_t t) {
    row(kernel, x + t * features, features, values + t * stride, scale + t, zero + t);
  });
}

Rows8 to_scratch(const float* x, std::ptrdiff_t tokens, int features, float scale, std::int32_t zero, int threads,
                 const float* inverse) {
  static thread_local Scratch8 scratch;
  // Rows an odd number of cache lines apart do not all fall into the same sets of a cache.
  const std::ptrdiff_t stride = (static_cast<std::ptrdiff_t>(features) + 63) / 64 * 64 | 64;
  if (const auto bytes = static_cast<std::size_t>(tokens * stride); scratch.values.size() < bytes) scratch.values.resize(bytes);
  const std::size_t scales = scale == 0.0f ? static_cast<std::size_t>(tokens) : 1;
  if (scratch.scale.size() < scales) {
    scratch.scale.resize(scales);
    scratch.zero.resize(scales);
  }
  std::uint8_t* const values = scratch.values.data();
  if (scale == 0.0f) {
    rows(x, tokens, features, values, stride, scratch.scale.data(), scratch.zero.data(), threads);
    return {values, tokens, stride, scratch.scale.data(), scratch.zero.data(), 1};
  }
  scratch.scale[0] = scale;
  scratch.zero[0] = zero;
  const Kernel& kernel = best(allowed_isa());
  each_token(tokens, features, threads, [&](std::ptrdiff_t t) {
    if (inverse == nullptr) kernel.round(x + t * features, features, 1.0f / scale, zero, values + t * stride);
    else kernel.round_each(x + t * features, features, inverse, zero, values + t * stride);
  });
  return {values, tokens, stride, scratch.scale.data(), scratch.zero.data(), 0};
}

}  // namespace rarefy::quantise
