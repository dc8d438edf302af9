#include "pack/depthwise.h"

#include <algorithm>

#include "pack/keep.h"

namespace rarefy::depthwise {
namespace {

constexpr int taps = 9, rows = 3;

// The word of one row of a channel, in one part, and where its three weights are in it.
std::size_t word_at(int parts, int channel, int part, int row) {
  return ((static_cast<std::size_t>(channel / 4) * parts + part) * rows + row) * 4 + channel % 4;
}

}  // namespace

Packed pack(const float* weight, int channels, int stride, const Kernel& kernel) {
  Packed p;
  p.channels = channels;
  p.stride = stride;
  p.kernel = &kernel;
  const std::size_t size = static_cast<std::size_t>(channels) * taps;
  p.weight.resize(size);
  std::transform(weight, weight + size, p.weight.begin(), [](float w) { return kept(w) ? w : 0.0f; });
  p.nnz = static_cast<std::size_t>(std::count_if(weight, weight + size, kept));
  return p;
}

Packed8 pack8(const std::int8_t* codes, const float* scale, int channels, int stride, const Kernel8& kernel) {
  Packed8 p;
  p.channels = channels;
  p.stride = stride;
  p.kernel = &kernel;
  const std::size_t whole = static_cast<std::size_t>(channels + 3) / 4 * 4;
  p.weight.assign(whole * kernel.parts * rows, 0);
  p.scale.assign(whole, 0.0f);
  p.sums.assign(whole, 0);
  std::copy(scale, scale + channels, p.scale.begin());
  for (int c = 0; c < channels; ++c)
    for (int tap = 0; tap < taps; ++tap) {
      const std::int8_t code = codes[static_cast<std::size_t>(c) * taps + tap];
      const int column = tap % 3, part = kernel.parts == 1 ? 0 : column % 2;
      p.weight[word_at(kernel.parts, c, part, tap / 3)] |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(code)) << (8 * column);
      p.sums[c] += code;
      p.nnz += code != 0;
    }
  return p;
}

void unpack8(const Packed8& p, float* weight) {
  for (int c = 0; c < p.channels; ++c)
    for (int tap = 0; tap < taps; ++tap) {
      const int column = tap % 3, part = p.kernel->parts == 1 ? 0 : column % 2;
      const std::uint32_t word = p.weight[word_at(p.kernel->parts, c, part, tap / 3)];
      weight[static_cast<std::size_t>(c) * taps + tap] = p.scale[c] * static_cast<float>(static_cast<std::int8_t>(word >> (8 * column)));
    }
}

}  // namespace rarefy::depthwise
