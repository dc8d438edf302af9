// The weight laid out for the kernels that pick inputs out of registers (kernels/lookup).
#pragma once

#include <cstddef>

#include "core/blob.h"
#include "kernels/lookup/contract.h"
#include "ops/layout.h"

namespace rarefy::lookup {

struct Packed {
  int out = 0, in = 0;
  const Kernel* kernel = nullptr;
  std::size_t nnz = 0;
  Stream bytes;
  Array<std::size_t> starts;
  Array<std::uint8_t> counts;
  Array<float> scales;  // of int8

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, kernel, nnz, bytes, starts, counts, scales] = self;
    archive(out, in, nnz, bytes, starts, counts, scales);
  }

  int bands() const { return (out + kernel->width - 1) / kernel->width; }
  int blocks() const { return (in + kernel->block() - 1) / kernel->block(); }
  std::size_t size() const { return bytes.size() + 8 * starts.size() + counts.size() + 4 * scales.size(); }
  Bands view() const { return {bytes.data(), starts.data(), counts.data(), scales.empty() ? nullptr : scales.data(), out, blocks()}; }
};

// Zeros and denormals are left out. Throws std::invalid_argument for int8 with several scales a row.
Packed pack(const WeightSource& weight, const Kernel& kernel);

// The inverse: writes every entry of (out, in).
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::lookup
