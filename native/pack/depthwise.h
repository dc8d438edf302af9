// A depthwise 3x3 weight laid out for the depthwise kernels: nine weights a channel, zeros too.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"
#include "kernels/depthwise/contract.h"

namespace rarefy::depthwise {

struct Packed {
  int channels = 0, stride = 1;
  std::size_t nnz = 0;
  const Kernel* kernel = nullptr;
  Array<float> weight;  // (channels, 3, 3)

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [channels, stride, nnz, kernel, weight] = self;
    archive(channels, stride, nnz, weight);
  }
};

struct Packed8 {
  int channels = 0, stride = 1;
  std::size_t nnz = 0;
  const Kernel8* kernel = nullptr;
  Array<std::uint32_t> weight;  // (channels / 4, parts, 3, 4): depthwise::Plane8
  Array<float> scale;           // of channels, up to a multiple of four
  Array<std::int32_t> sums;

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [channels, stride, nnz, kernel, weight, scale, sums] = self;
    archive(channels, stride, nnz, weight, scale, sums);
  }
  std::size_t bytes() const { return 4 * (weight.size() + scale.size() + sums.size()); }
};

// weight: (channels, 3, 3); codes: the same as bytes in [-127, 127], with a scale a channel.
Packed pack(const float* weight, int channels, int stride, const Kernel& kernel);
Packed8 pack8(const std::int8_t* codes, const float* scale, int channels, int stride, const Kernel8& kernel);

// The weight that the codes stand for (channels, 3, 3).
void unpack8(const Packed8& packed, float* weight);

}  // namespace rarefy::depthwise
