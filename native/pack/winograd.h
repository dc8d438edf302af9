// A dense convolution's weight, and its values at the points of minimal filtering.
#pragma once

#include <cstddef>

#include "core/blob.h"
#include "kernels/winograd/contract.h"
#include "pack/conv.h"

namespace rarefy::winograd {

struct Packed {
  int out = 0, in = 0;
  conv::Window window;
  const Kernel* kernel = nullptr;
  Array<float> weight;   // (out, in, height, width); denormals are zero
  Array<float> factors;  // Weights::factors, zeros for output channels beyond the last

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, window, kernel, weight, factors] = self;
    archive(out, in, window, weight, factors);
  }
  int blocks() const { return (out + kernel->together - 1) / kernel->together; }
  int phases() const { return in * window.stride_y * window.stride_x; }
  std::size_t nnz() const;
  std::size_t bytes() const { return 4 * (weight.size() + factors.size()); }
};

// What keeps a kernel from computing a window, or null: both axes need as many taps a phase as it has, no dilation.
const char* why_not(const conv::Window& window, int groups, const Kernel& kernel);

// weight: (out, in, height, width) row-major.
Packed pack(const float* weight, int out, int in, const conv::Window&, const Kernel&);

}  // namespace rarefy::winograd
