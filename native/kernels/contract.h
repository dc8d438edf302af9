// What every kernel shares: plain pointers, no exceptions, no threads, no standard containers.
#pragma once

namespace rarefy {

enum class Activation : int { none = 0, relu = 1, gelu = 2, gelu_tanh = 3, silu = 4 };

}  // namespace rarefy
