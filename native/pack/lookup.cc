#include "pack/lookup.h"

#include <algorithm>
#include <cstring>

#include "pack/bits.h"
#include "pack/row_scales.h"

namespace rarefy::lookup {
namespace {

// The stored bits of an entry; 0: it is not there.
std::uint32_t entry(const WeightSource& weight, Stored stored, int row, int column) {
  const std::size_t at = static_cast<std::size_t>(row) * weight.in + column;
  if (stored == Stored::int8) return static_cast<std::uint8_t>(weight.codes[at]);
  return bits_of(weight.values[at], stored == Stored::bf16);
}

// Step `step` of what begins at `first`: where the place and the value of a lane lie.
struct Step {
  std::size_t place, value;
};
Step step_of(const Kernel& kernel, std::size_t first, int step, int lane) {
  const std::size_t at = first + static_cast<std::size_t>(step) * kernel.step_bytes();
  return {at + lane, at + kernel.width + static_cast<std::size_t>(matvec::size_of(kernel.stored)) * lane};
}

// Appends the steps of a band in one block.
void append(Packed& p, const WeightSource& weight, int band, int block) {
  const Kernel& kernel = *p.kernel;
  const int from = block * kernel.block(), to = std::min(weight.in, from + kernel.block());
  const int rows = std::min(kernel.width, weight.out - band * kernel.width);
  std::vector<int> counts(kernel.width, 0);
  for (int lane = 0; lane < rows; ++lane)
    for (int k = from; k < to; ++k) counts[lane] += entry(weight, kernel.stored, band * kernel.width + lane, k) != 0;
  const int steps = *std::max_element(counts.begin(), counts.end());
  const std::size_t first = p.bytes.size();
  p.bytes.resize(first + static_cast<std::size_t>(steps) * kernel.step_bytes());
  for (int lane = 0; lane < kernel.width; ++lane) {
    int step = 0;
    for (int k = from; lane < rows && k < to; ++k) {
      const std::uint32_t bits = entry(weight, kernel.stored, band * kernel.width + lane, k);
      if (bits == 0) continue;
      const Step at = step_of(kernel, first, step++, lane);
      p.bytes[at.place] = static_cast<unsigned char>(k - from);
      std::memcpy(p.bytes.data() + at.value, &bits, matvec::size_of(kernel.stored));  // little-endian
    }
    p.nnz += static_cast<std::size_t>(step);
    for (; step < steps; ++step) p.bytes[step_of(kernel, first, step, lane).place] = static_cast<unsigned char>(kernel.block());
  }
  p.counts.push_back(static_cast<std::uint8_t>(steps));
}

float value_at(const Packed& p, std::size_t at, int row) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, p.bytes.data() + at, matvec::size_of(p.kernel->stored));
  if (p.kernel->stored == Stored::int8) return p.scales[row] * static_cast<float>(static_cast<std::int8_t>(bits));
  return p.kernel->stored == Stored::bf16 ? from_bf16(static_cast<std::uint16_t>(bits)) : std::bit_cast<float>(bits);
}

}  // namespace

Packed pack(const WeightSource& weight, const Kernel& kernel) {
  if (kernel.stored == Stored::int8) require_row_scales(weight, kernel.name);
  Packed p;
  p.out = weight.out;
  p.in = weight.in;
  p.kernel = &kernel;
  for (int band = 0; band < p.bands(); ++band) {
    p.starts.push_back(p.bytes.size());
    for (int block = 0; block < p.blocks(); ++block) append(p, weight, band, block);
  }
  p.starts.push_back(p.bytes.size());
  p.bytes.shrink_to_fit();
  if (kernel.stored == Stored::int8) {
    p.scales.assign(static_cast<std::size_t>(p.bands()) * kernel.width, 1.0f);
    std::copy(weight.scales, weight.scales + weight.out, p.scales.begin());
  }
  return p;
}

void unpack(const Packed& p, float* weight) {
  const Kernel& kernel = *p.kernel;
  std::fill(weight, weight + static_cast<std::size_t>(p.out) * p.in, 0.0f);
  for (int band = 0; band < p.bands(); ++band) {
    std::size_t first = p.starts[band];
    for (int block = 0; block < p.blocks(); ++block) {
      const int steps = p.counts[static_cast<std::size_t>(band) * p.blocks() + block];
      for (int step = 0; step < steps; ++step)
        for (int lane = 0; lane < kernel.width; ++lane) {
          const Step at = step_of(kernel, first, step, lane);
          const int row = band * kernel.width + lane, column = block * kernel.block() + p.bytes[at.place];
          if (p.bytes[at.place] < kernel.block()) weight[static_cast<std::size_t>(row) * p.in + column] = value_at(p, at.value, row);
        }
      first += static_cast<std::size_t>(steps) * kernel.step_bytes();
    }
  }
}

}  // namespace rarefy::lookup
