#include "pack/conv_direct.h"

#include <algorithm>

#include "pack/keep.h"

namespace rarefy::conv_direct {

Packed pack(const float* weight, int out, int in, int groups, const conv::Window& window, const Kernel& kernel) {
  Packed p;
  p.out = out;
  p.in = in;
  p.groups = groups;
  p.window = window;
  p.kernel = &kernel;
  const int taps = p.taps();
  for (int o = 0; o < out; ++o) {
    const int first = o / (out / groups) * in;
    const float* const row = weight + static_cast<std::size_t>(o) * in * taps;
    for (int tap = 0; tap < taps; ++tap) {
      for (int c = 0; c < in; ++c) {
        const float value = row[static_cast<std::size_t>(c) * taps + tap];
        if (!kept(value)) continue;
        p.values.push_back(value);
        p.channels.push_back(static_cast<std::uint32_t>(first + c));
      }
      p.ends.push_back(static_cast<std::uint32_t>(p.values.size()));
    }
  }
  p.values.shrink_to_fit();
  p.channels.shrink_to_fit();
  return p;
}

void unpack(const Packed& p, float* weight) {
  const int taps = p.taps();
  const std::size_t row = static_cast<std::size_t>(p.in) * taps;
  std::fill(weight, weight + p.out * row, 0.0f);
  std::size_t i = 0;
  for (int o = 0; o < p.out; ++o)
    for (int tap = 0; tap < taps; ++tap)
      for (; i < p.ends[static_cast<std::size_t>(o) * taps + tap]; ++i) {
        const int c = static_cast<int>(p.channels[i]) - o / (p.out / p.groups) * p.in;
        weight[o * row + static_cast<std::size_t>(c) * taps + tap] = p.values[i];
      }
}

}  // namespace rarefy::conv_direct
