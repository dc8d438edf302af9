// An 8-bit convolution weight laid out for one conv8 kernel: pack/conv.h with words of four input channels, and what turns
// sums into results.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/conv8/contract.h"
#include "pack/conv.h"

namespace rarefy::conv8 {

struct Packed {
  int out = 0, in = 0, groups = 1;  // output channels of all groups; input channels of one
  std::size_t nnz = 0;
  conv::Packed words;               // its input channels are fours; its groups 1 where fours would reach over groups
  const Kernel* kernel = nullptr;
  Array<float> scale;               // of output channels, up to a multiple of four
  Array<std::int32_t> sums;         // of their weights

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, groups, nnz, words, kernel, scale, sums] = self;
    archive(out, in, groups, nnz, words, scale, sums);
  }

  std::size_t bytes() const { return words.bytes() + scale.size() * (sizeof(float) + sizeof(std::int32_t)); }
};

// codes: (out, in / groups, height, width) in [-127, 127], row-major; scale: (out).
// Throws std::invalid_argument where the sum of a channel could pass 32 bits, and as conv::pack.
Packed pack(const std::int8_t* codes, const float* scale, int out, int in, int groups, const conv::Window&, const Kernel&,
            std::size_t panel_bytes);

// The weight that the codes stand for (out, in / groups, height, width): writes every entry.
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::conv8
