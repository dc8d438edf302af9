#include "pack/fanin.h"

#include <algorithm>
#include <cstring>

#include "pack/keep.h"
#include "pack/row_scales.h"

namespace rarefy::fanin {
namespace {

std::vector<std::uint32_t> columns_of(const WeightSource& weight, int row) {
  std::vector<std::uint32_t> out;
  const std::size_t start = static_cast<std::size_t>(row) * weight.in;
  for (int k = 0; k < weight.in; ++k)
    if (weight.codes != nullptr ? weight.codes[start + k] != 0 : kept(weight.values[start + k])) out.push_back(static_cast<std::uint32_t>(k));
  return out;
}

// Where entry `step` of a row stands: its column, and its value.
struct Place {
  std::size_t column, value;
};
Place place(const Packed& p, int row, int step) {
  const std::size_t at = (static_cast<std::size_t>(row / band) * p.steps + step) * step_bytes(p.kernel->stored, p.index);
  return {at + p.index * (row % band), at + p.index * band + matvec::size_of(p.kernel->stored) * (row % band)};
}

}  // namespace

Packed pack(const WeightSource& weight, const Kernel& kernel) {
  if (kernel.stored == Stored::int8) require_row_scales(weight, kernel.name);
  Packed p;
  p.out = weight.out;
  p.in = weight.in;
  p.kernel = &kernel;
  p.index = weight.in <= widest_for_16_bits ? 2 : 4;
  std::vector<std::vector<std::uint32_t>> columns;
  for (int row = 0; row < weight.out; ++row) {
    columns.push_back(columns_of(weight, row));
    p.nnz += columns.back().size();
    p.steps = std::max(p.steps, static_cast<int>(columns.back().size()));
  }
  const int rows = (weight.out + band - 1) / band * band;
  p.bytes.resize(static_cast<std::size_t>(rows / band) * p.steps * step_bytes(kernel.stored, p.index) + overread);
  if (kernel.stored == Stored::int8) {
    p.scales.assign(rows, 1.0f);
    std::copy(weight.scales, weight.scales + weight.out, p.scales.begin());
  }
  for (int row = 0; row < rows; ++row)
    for (int step = 0; step < p.steps; ++step) {
      const Place to = place(p, row, step);
      const bool there = row < weight.out && step < static_cast<int>(columns[row].size());
      const auto column = static_cast<std::uint32_t>(there ? columns[row][step] : weight.in);
      std::memcpy(p.bytes.data() + to.column, &column, p.index);  // little-endian
      if (!there) continue;
      const std::size_t from = static_cast<std::size_t>(row) * weight.in + column;
      if (kernel.stored == Stored::int8) std::memcpy(p.bytes.data() + to.value, weight.codes + from, 1);
      else std::memcpy(p.bytes.data() + to.value, weight.values + from, 4);
    }
  return p;
}

void unpack(const Packed& p, float* weight) {
  std::fill(weight, weight + static_cast<std::size_t>(p.out) * p.in, 0.0f);
  for (int row = 0; row < p.out; ++row)
    for (int step = 0; step < p.steps; ++step) {
      const Place from = place(p, row, step);
      std::uint32_t column = 0;
      std::memcpy(&column, p.bytes.data() + from.column, p.index);
      if (static_cast<int>(column) >= p.in) continue;
      float value;
      if (p.kernel->stored == Stored::int8) value = p.scales[row] * static_cast<float>(static_cast<std::int8_t>(p.bytes[from.value]));
      else std::memcpy(&value, p.bytes.data() + from.value, 4);
      weight[static_cast<std::size_t>(row) * p.in + column] = value;
    }
}

}  // namespace rarefy::fanin
