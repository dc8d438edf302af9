// What every kernel shares: plain pointers, no exceptions, no threads, no standard containers.
#pragma once

#include <cstddef>

namespace rarefy {

enum class Activation : int { none = 0, relu = 1, gelu = 2, gelu_tanh = 3, silu = 4 };

// Where a kernel of few tokens puts its rows: y[t * stride + row].
struct RowOutput {
  const float* bias;  // (out) or null
  Activation activation;
  float* y;
  std::ptrdiff_t stride;
};

}  // namespace rarefy
