// What kernels with one scale for a whole row ask of a weight.
#pragma once

#include <stdexcept>
#include <string>

#include "ops/layout.h"

namespace rarefy {

// Throws std::invalid_argument for integers with several scales a row.
inline void require_row_scales(const WeightSource& weight, const std::string& kernel) {
  if (weight.groups != 1)
    throw std::invalid_argument("pack: kernel " + kernel + " takes one scale a row, got " + std::to_string(weight.groups));
}

}  // namespace rarefy
