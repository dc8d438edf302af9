// The weight laid out way by way, for the kernels of grouped N:M.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"
#include "kernels/nmg/contract.h"
#include "ops/layout.h"

namespace rarefy::nmg {

struct Packed {
  int out = 0, in = 0, kept = 0, of = 0, per_way = 0;
  const Kernel* kernel = nullptr;
  Array<std::int32_t> offsets;  // (ways, kept)
  Stream bytes;                       // and `overread` more
  Array<float> scales;          // of int8

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, kept, of, per_way, kernel, offsets, bytes, scales] = self;
    archive(out, in, kept, of, per_way, offsets, bytes, scales);
  }

  int ways() const { return kept == 0 ? 0 : static_cast<int>(offsets.size()) / kept; }
  std::size_t nnz() const { return static_cast<std::size_t>(out) * ways() * per_way * kept; }
  std::size_t size() const { return bytes.size() + 4 * (scales.size() + offsets.size()); }
  Bands bands() const { return {bytes.data(), scales.empty() ? nullptr : scales.data(), offsets.data(), ways(), kept, per_way}; }
};

// Throws std::invalid_argument where the weight is no grouped N:M (M up to 16, N up to 8, at most 256 ways): some row
// does not use every way to keep N of M equally often.
Packed pack(const WeightSource& weight, const Kernel& kernel);

// The inverse: writes every entry of (out, in).
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::nmg
