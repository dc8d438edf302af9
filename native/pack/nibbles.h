// The weight laid out in groups of 4-bit values, for the matvec4 kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"
#include "kernels/matvec4/contract.h"
#include "ops/layout.h"

namespace rarefy::matvec4 {

struct Packed {
  int out = 0, in = 0;
  const Kernel* kernel = nullptr;
  std::size_t nnz = 0;
  Stream bytes;                        // and `overread` more
  Array<std::size_t> starts;     // (out + 1)
  Array<std::uint32_t> entries;  // (out)
  Array<float> scales, sums;     // (out)

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, kernel, nnz, bytes, starts, entries, scales, sums] = self;
    archive(out, in, nnz, bytes, starts, entries, scales, sums);
  }

  int groups() const {  // with those behind the last input where two share a scale
    const int whole = (in + group_inputs - 1) / group_inputs;
    return kernel->format == Format::wide ? (whole + 1) / 2 * 2 : whole;
  }
  int mask_bytes() const { return kernel->format == Format::groups ? (groups() + 7) / 8 : 0; }
  int number_bytes() const { return kernel->format != Format::listed ? 0 : groups() <= 256 ? 1 : 2; }
  std::size_t size() const;
  Rows rows() const;
};

// Throws std::invalid_argument for scales of fewer inputs than a group (`wide`: than two) or that a group would straddle,
// and for more than 65536 inputs.
Packed pack(const WeightSource& weight, const Kernel& kernel);

// The inverse: writes every entry of (out, in), as stored.
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::matvec4
