// The moments of Adam at weights that are younger than the step count of their tensor.
#pragma once

#include <cstdint>

namespace rarefy::train {

// Weights that were grown: flat positions in a parameter of `size`, each once, and the steps that each has taken.
struct Young {
  const void* at;  // int64 where `wide`, else int32
  bool wide;
  const std::int32_t* age;
  std::int64_t count, size;
};

// The gradient that goes into the moments: sign * grad + decay * weight, at the parameter's positions.
struct Gradient {
  const float* grad;
  const float* weight;
  double sign, decay;
};

// exp_avg, exp_avg_sq and, with amsgrad, max_exp_avg_sq (else null), ahead of step `step` = 1, 2, ... A moment whose
// beta is 0 remembers nothing and is left alone.
struct Adam {
  float* first;
  float* second;
  float* most;
  double beta1, beta2;
  std::int64_t step;
};

// Scales the moments so that the step leaves those of an optimizer that began with the weight, each times
// (1 - beta^step) / (1 - beta^age), which Adam divides by. young (count): 1 where beta^age is above `old` after the
// step for either beta. Throws std::out_of_range for a position or an age that cannot be; nothing is changed then.
void correct(const Young&, const Gradient&, const Adam&, double old, std::uint8_t* young, int threads);

}  // namespace rarefy::train
