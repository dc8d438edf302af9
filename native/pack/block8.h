// The weight laid out for one block8 kernel: bands of rows, tiles of input features, groups of rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/blob.h"
#include "kernels/block8/contract.h"

namespace rarefy::block8 {

// A multiple of every group size; the sums of so many rows fit in the L1 cache beside a panel until they are finished.
inline constexpr int band_rows = 48;

struct Packed {
  int out = 0, in = 0;
  const Kernel* kernel = nullptr;
  std::size_t nnz = 0;  // codes that are not zero
  Array<std::int8_t> values;
  Array<std::uint16_t> offsets;
  Array<std::uint16_t> groups;
  struct Start {
    std::size_t value, offset, group, count;  // count: number of groups; the others index the arrays above
  };
  Array<Start> starts;       // (bands, tiles)
  Array<float> scale;        // of every row, and 16 more
  Array<std::int32_t> sums;  // of every row, as in Epilogue, and 16 more

  template <class Self, class Archive>
  static void fields(Self& self, Archive& archive) {
    auto& [out, in, kernel, nnz, values, offsets, groups, starts, scale, sums] = self;
    archive(out, in, nnz, values, offsets, groups, starts, scale, sums);
  }

  int bands() const { return (out + band_rows - 1) / band_rows; }
  int tiles() const { return in == 0 ? 1 : (in + kernel->depth - 1) / kernel->depth; }
  int rows_of(int band) const { return band + 1 < bands() ? band_rows : out - band * band_rows; }
  std::size_t values_of(int band) const;  // with filling
  Segment segment(int band, int tile) const;
  std::size_t bytes() const;
};

// codes: (out, in) row-major; scales: (out). Throws std::invalid_argument where 32-bit sums could overflow.
Packed pack(const std::int8_t* codes, const float* scales, int out, int in, const Kernel& kernel);

// The inverse: writes every entry of (out, in), scale times code.
void unpack(const Packed& packed, float* weight);

}  // namespace rarefy::block8
