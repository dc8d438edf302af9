// The weight row by row on whole cache lines, for the neurons kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"
#include "kernels/neurons/contract.h"
#include "ops/layout.h"

namespace rarefy::neurons {

struct Packed {
  int out = 0, in = 0;
  const Kernel* kernel = nullptr;
  std::size_t nnz = 0;
  Stream bytes;         // and `overread` more
  Array<float> scales;  // (out) of int8 and int4

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, kernel, nnz, bytes, scales] = self;
    archive(out, in, nnz, bytes, scales);
  }

  std::size_t stride() const { return row_bytes(kernel->stored, in); }
  std::size_t size() const { return bytes.size() + 4 * scales.size(); }
  Rows view() const { return {in, bytes.data(), stride(), scales.empty() ? nullptr : scales.data()}; }
};

// Denormals become 0; bf16 rounds to nearest even; 4-bit scales are rounded as those of kernels/matvec4. Throws
// std::invalid_argument for scales that the kernel does not hold.
Packed pack(const WeightSource& weight, const Kernel& kernel);

// The inverse: writes every entry of (out, in), as stored.
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::neurons
