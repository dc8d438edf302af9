#include "pack/rows.h"

#include <algorithm>

#include "pack/keep.h"

namespace rarefy::spmv {
namespace {

constexpr int widest_for_16_bits = 65536;

void append_columns(Packed& packed, const float* row) {
  for (int k = 0; k < packed.in; ++k) {
    if (!kept(row[k])) continue;
    packed.values.push_back(row[k]);
    if (packed.in <= widest_for_16_bits) packed.columns16.push_back(static_cast<std::uint16_t>(k));
    else packed.columns32.push_back(static_cast<std::uint32_t>(k));
  }
}

void append_mask(Packed& packed, const float* row) {
  for (int first = 0; first < packed.in; first += 16) {
    unsigned mask = 0;
    for (int k = first; k < std::min(first + 16, packed.in); ++k)
      if (kept(row[k])) {
        mask |= 1u << (k - first);
        packed.values.push_back(row[k]);
      }
    packed.masks.push_back(static_cast<std::uint16_t>(mask));
  }
}

}  // namespace

Packed pack(const float* weight, int out, int in, const Kernel& kernel) {
  Packed packed;
  packed.out = out;
  packed.in = in;
  packed.kernel = &kernel;
  packed.starts.push_back(0);
  for (int row = 0; row < out; ++row) {
    const float* from = weight + static_cast<std::size_t>(row) * in;
    kernel.format == Format::bitmask ? append_mask(packed, from) : append_columns(packed, from);
    packed.starts.push_back(packed.values.size());
  }
  packed.values.resize(packed.nnz() + overread);
  if (kernel.format == Format::index) (in <= widest_for_16_bits ? packed.columns16.resize(packed.nnz() + overread)
                                                                : packed.columns32.resize(packed.nnz() + overread));
  return packed;
}

Rows Packed::rows() const {
  return {in,
          starts.data(),
          values.data(),
          masks.data(),
          columns16.empty() ? nullptr : columns16.data(),
          columns32.empty() ? nullptr : columns32.data()};
}

void unpack(const Packed& packed, float* weight) {
  std::fill(weight, weight + static_cast<std::size_t>(packed.out) * packed.in, 0.0f);
  const Rows rows = packed.rows();
  const int words = (packed.in + 15) / 16;
  for (int row = 0; row < packed.out; ++row) {
    float* to = weight + static_cast<std::size_t>(row) * packed.in;
    std::size_t at = rows.starts[row];
    if (packed.kernel->format == Format::bitmask) {
      for (int k = 0; k < packed.in; ++k)
        if (rows.masks[static_cast<std::size_t>(row) * words + k / 16] >> (k % 16) & 1) to[k] = rows.values[at++];
    } else {
      for (; at < rows.starts[row + 1]; ++at)
        to[rows.columns16 != nullptr ? rows.columns16[at] : rows.columns32[at]] = rows.values[at];
    }
  }
}

std::size_t Packed::bytes() const {
  return values.size() * sizeof(float) + (masks.size() + columns16.size()) * sizeof(std::uint16_t) +
         columns32.size() * sizeof(std::uint32_t) + starts.size() * sizeof(std::size_t);
}

}  // namespace rarefy::spmv
