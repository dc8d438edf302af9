// The weight laid out by input columns in panels of rows, for the columns kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"
#include "kernels/columns/contract.h"
#include "ops/layout.h"

namespace rarefy::columns {

struct Packed {
  int out = 0, in = 0, panel = 0;
  const Kernel* kernel = nullptr;
  std::size_t nnz = 0;
  Stream bytes;                 // and `overread` more
  Array<std::size_t> bases;     // (panels + 1)
  Array<std::uint32_t> starts;  // bitmask: (panels, in + 1)
  Array<float> scales;          // (out) of int8 and int4

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, panel, kernel, nnz, bytes, bases, starts, scales] = self;
    archive(out, in, panel, nnz, bytes, bases, starts, scales);
  }

  int panels() const { return panel == 0 ? 0 : (out + panel - 1) / panel; }
  int rows_of(int number) const { return columns::rows_of(kernel->stored, out, panel, number); }
  std::size_t size() const;
  Panels view() const;
};

// Zeros and denormals are left out; bf16 rounds to nearest even; 4-bit scales are rounded as those of kernels/matvec4.
// Throws std::invalid_argument for scales that the kernel does not hold.
Packed pack(const WeightSource& weight, const Kernel& kernel);

// The inverse: writes every entry of (out, in), as stored.
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::columns
