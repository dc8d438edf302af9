// The weight laid out in bands of outputs of equal fan-in, for the fanin kernels.
#pragma once

#include <cstddef>

#include "core/blob.h"
#include "kernels/fanin/contract.h"
#include "ops/layout.h"

namespace rarefy::fanin {

struct Packed {
  int out = 0, in = 0, steps = 0, index = 2;
  const Kernel* kernel = nullptr;
  std::size_t nnz = 0;
  Stream bytes;               // and `overread` more
  Array<float> scales;  // of int8

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, steps, index, kernel, nnz, bytes, scales] = self;
    archive(out, in, steps, index, nnz, bytes, scales);
  }

  std::size_t size() const { return bytes.size() + 4 * scales.size(); }
  Bands bands() const { return {bytes.data(), scales.empty() ? nullptr : scales.data(), steps, index}; }
};

// Zeros and denormals are left out; outputs with fewer entries than the fullest are filled up. Throws
// std::invalid_argument for int8 with several scales a row.
Packed pack(const WeightSource& weight, const Kernel& kernel);

// The inverse: writes every entry of (out, in).
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::fanin
