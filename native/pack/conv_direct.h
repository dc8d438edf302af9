// A convolution's weight laid out for the kernels that read their inputs in place: the non-zeros of each output channel, tap
// after tap.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"
#include "kernels/conv_direct/contract.h"
#include "pack/conv.h"

namespace rarefy::conv_direct {

struct Packed {
  int out = 0, in = 0, groups = 1;  // output channels of all groups; input channels of one
  conv::Window window;
  const Kernel* kernel = nullptr;
  Array<float> values;
  Array<std::uint32_t> channels;  // of each value, among all groups' input channels
  Array<std::uint32_t> ends;      // (out, taps): where each tap's values end

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, groups, window, kernel, values, channels, ends] = self;
    archive(out, in, groups, window, values, channels, ends);
  }
  int taps() const { return window.height * window.width; }
  std::size_t bytes() const { return 4 * (values.size() + channels.size() + ends.size()); }
};

// weight: (out, in / groups, height, width) row-major. Zeros and denormals are left out.
Packed pack(const float* weight, int out, int in, int groups, const conv::Window&, const Kernel&);

// The inverse: writes every entry.
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::conv_direct
