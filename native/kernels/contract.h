// What every kernel shares: plain pointers, no exceptions, no threads, no standard containers.
#pragma once

#include <cstddef>

namespace rarefy {

// Where weights that pass by once are fetched to (the locality of __builtin_prefetch): the second cache, for the first has room
// for fewer lines on their way (Zen 4, dense 8-bit rows, one thread: 19 GB/s into the first, 26 into the second).
inline constexpr int in_passing = 2;

enum class Activation : int { none = 0, relu = 1, gelu = 2, gelu_tanh = 3, silu = 4, relu2 = 5 };

// Where a kernel of few tokens puts its rows: y[t * stride + row].
struct RowOutput {
  const float* bias;  // (out) or null
  Activation activation;
  float* y;
  std::ptrdiff_t stride;
};

}  // namespace rarefy
