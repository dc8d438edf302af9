// The weight laid out in groups of 4-bit values, for the matvec4 kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/stream.h"
#include "kernels/matvec4/contract.h"
#include "ops/layout.h"

namespace rarefy::matvec4 {

struct Packed {
  int out = 0, in = 0;
  const Kernel* kernel = nullptr;
  std::size_t nnz = 0;
  Stream bytes;                        // and `overread` more
  std::vector<std::size_t> starts;     // (out + 1)
  std::vector<std::uint32_t> entries;  // (out)
  std::vector<float> scales, sums;     // (out)

  int groups() const {  // with those behind the last input where two share a scale
    const int whole = (in + group_inputs - 1) / group_inputs;
    return kernel->format == Format::wide ? (whole + 1) / 2 * 2 : whole;
  }
  int mask_bytes() const { return kernel->format == Format::groups ? (groups() + 7) / 8 : 0; }
  std::size_t size() const;
  Rows rows() const;
};

// Throws std::invalid_argument for scales of fewer inputs than a group (`wide`: than two) or that a group would straddle,
// and for more than 65536 inputs.
Packed pack(const WeightSource& weight, const Kernel& kernel);

// The inverse: writes every entry of (out, in), as stored.
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::matvec4
