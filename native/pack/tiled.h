// The weight laid out for one spmm kernel: bands of rows, tiles of input features, groups of rows with like counts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"
#include "kernels/spmm/contract.h"

namespace rarefy::spmm {

inline constexpr int band_rows = 192;  // a multiple of every group size; small enough to share out among threads

struct Tiled {
  int out = 0, in = 0;
  const Kernel* kernel = nullptr;
  std::size_t nnz = 0;
  Array<float> values;
  Array<std::uint16_t> offsets;
  Array<std::uint16_t> groups;
  struct Start {
    std::size_t entry, group, count;  // group: index into `groups`; count: number of groups
  };
  Array<Start> starts;  // (bands, tiles)

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, kernel, nnz, values, offsets, groups, starts] = self;
    archive(out, in, nnz, values, offsets, groups, starts);
  }

  int bands() const { return (out + band_rows - 1) / band_rows; }
  int tiles() const { return in == 0 ? 1 : (in + kernel->depth - 1) / kernel->depth; }
  int rows_of(int band) const { return band + 1 < bands() ? band_rows : out - band * band_rows; }
  std::size_t entries_of(int band) const;  // with filling
  Segment segment(int band, int tile) const;
  std::size_t bytes() const;
};

// weight: (out, in) row-major. Zeros and denormals are left out.
Tiled pack(const float* weight, int out, int in, const Kernel& kernel);

// The inverse: writes every entry of (out, in).
void unpack(const Tiled& packed, float* weight);

}  // namespace rarefy::spmm
