// The weight laid out row by row for the spmv kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/aligned.h"
#include "kernels/spmv/contract.h"

namespace rarefy::spmv {

struct Packed {
  int out = 0, in = 0;
  const Kernel* kernel = nullptr;
  std::vector<std::size_t> starts;
  AlignedVector<float> values;  // and `overread` more
  AlignedVector<std::uint16_t> masks, columns16;
  AlignedVector<std::uint32_t> columns32;

  std::size_t nnz() const { return starts.back(); }
  Rows rows() const;
  std::size_t bytes() const;
};

// weight: (out, in) row-major. Zeros and denormals are left out.
Packed pack(const float* weight, int out, int in, const Kernel& kernel);

// The inverse: writes every entry of (out, in).
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::spmv
