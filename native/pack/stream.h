// The weight laid out row by row as streams, for the matvec kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"
#include "kernels/matvec/contract.h"
#include "ops/layout.h"
#include "pack/groups.h"

namespace rarefy::matvec {

struct Packed {
  int out = 0, in = 0;
  const Kernel* kernel = nullptr;
  Groups groups;
  Stream bytes;                       // and `overread` more
  Array<std::size_t> starts;    // (out + 1)
  Array<std::uint32_t> entries; // (out)
  Array<float> scales;          // (out) of int8
  Array<std::int32_t> sums;     // (out) of int8

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, kernel, groups, bytes, starts, entries, scales, sums] = self;
    archive(out, in, groups, bytes, starts, entries, scales, sums);
  }

  int units() const { return (in + groups.columns() - 1) / groups.columns(); }
  int chunks() const { return (units() + 3) / 4; }
  std::size_t nnz() const;
  std::size_t size() const;
  Rows rows() const;
};

// Zeros and denormals are left out; bf16 rounds to nearest even. Throws std::invalid_argument where the kernel has no
// form for the weight: int8 with several scales a row, an index beyond 65535, `fixed` for what is no N:M.
Packed pack(const WeightSource& weight, const Kernel& kernel);

// The inverse: writes every entry of (out, in), as stored.
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::matvec
