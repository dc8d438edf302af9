// A layout whose inputs are divided by factors of their own before they are rounded to bytes of a known scale: a wide input
// no longer sets the step of all (SmoothQuant, arXiv:2211.10438). The weight was multiplied by the factors before.
#pragma once

#include <memory>

#include "ops/layout.h"

namespace rarefy {

// inner: the layout of `weight`, of a kernel with 8-bit inputs; weight.input_factors and input_scale are there.
std::unique_ptr<Layout> factored(std::unique_ptr<Layout> inner, const WeightSource& weight);

}  // namespace rarefy
