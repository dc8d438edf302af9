// The weight laid out row by row for the spmv kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"
#include "kernels/spmv/contract.h"

namespace rarefy::spmv {

struct Packed {
  int out = 0, in = 0;
  const Kernel* kernel = nullptr;
  Array<std::size_t> starts;
  Array<float> values;  // and `overread` more
  Array<std::uint16_t> masks, columns16;
  Array<std::uint32_t> columns32;

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, kernel, starts, values, masks, columns16, columns32] = self;
    archive(out, in, starts, values, masks, columns16, columns32);
  }

  std::size_t nnz() const { return starts.back(); }
  Rows rows() const;
  std::size_t bytes() const;
};

// weight: (out, in) row-major. Zeros and denormals are left out.
Packed pack(const float* weight, int out, int in, const Kernel& kernel);

// The inverse: writes every entry of (out, in).
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::spmv
