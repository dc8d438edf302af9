#include "pack/neurons.h"

#include <cstring>

#include "pack/bits.h"
#include "pack/row_scales.h"
#include "pack/scales4.h"

namespace rarefy::neurons {
namespace {

// Where a 4-bit value of a row stands: the byte and the shift in it.
struct Place {
  std::size_t byte;
  int shift;
};
Place place_of(int k) {
  const columns::Nibble at = columns::nibble_of(k % run_inputs);
  return {std::size_t(k / run_inputs) * run_bytes + at.byte, at.shift};
}
std::size_t scale_of(int k) { return std::size_t(k / run_inputs) * run_bytes + 64 + 2 * (k % run_inputs / scales4::group_inputs); }

// How many entries of the row are not 0.
std::size_t put4(const WeightSource& weight, int row, float most, unsigned char* to) {
  for (int k = 0; k < weight.in; k += scales4::group_inputs) {
    const std::uint16_t scale = scales4::rounded(scales4::of(weight, row, k / scales4::group_inputs), most);
    std::memcpy(to + scale_of(k), &scale, 2);
  }
  std::size_t nnz = 0;
  for (int k = 0; k < weight.in; ++k) {
    const Place at = place_of(k);
    const std::int8_t code = weight.codes[static_cast<std::size_t>(row) * weight.in + k];
    to[at.byte] |= static_cast<unsigned char>((code & 15) << at.shift);
    nnz += code != 0;
  }
  return nnz;
}

std::size_t put(const WeightSource& weight, Stored stored, int row, unsigned char* to) {
  const int size = columns::size_of(stored);
  std::size_t nnz = 0;
  for (int k = 0; k < weight.in; ++k) {
    const std::size_t at = static_cast<std::size_t>(row) * weight.in + k;
    const std::uint32_t bits = stored == Stored::int8 ? static_cast<std::uint8_t>(weight.codes[at]) : bits_of(weight.values[at], stored == Stored::bf16);
    std::memcpy(to + std::size_t(k) * size, &bits, size);
    nnz += bits != 0;
  }
  return nnz;
}

}  // namespace

Packed pack(const WeightSource& weight, const Kernel& kernel) {
  const bool four = kernel.stored == Stored::int4;
  if (four) scales4::require(weight, kernel.name);
  if (kernel.stored == Stored::int8) require_row_scales(weight, kernel.name);
  Packed p;
  p.out = weight.out;
  p.in = weight.in;
  p.kernel = &kernel;
  p.bytes.resize(p.stride() * p.out + columns::overread);
  for (int row = 0; row < p.out; ++row) {
    unsigned char* const to = p.bytes.data() + row * p.stride();
    const float most = four ? scales4::largest(weight, row) : 1.0f;
    p.nnz += four ? put4(weight, row, most, to) : put(weight, kernel.stored, row, to);
    if (kernel.stored >= Stored::int8) p.scales.push_back(four ? most / scales4::full : weight.scales[row]);
  }
  return p;
}

void unpack(const Packed& p, float* weight) {
  for (int row = 0; row < p.out; ++row) {
    const unsigned char* const from = p.bytes.data() + row * p.stride();
    float* const to = weight + static_cast<std::size_t>(row) * p.in;
    for (int k = 0; k < p.in; ++k) {
      std::uint16_t half;
      switch (p.kernel->stored) {
        case Stored::fp32: std::memcpy(to + k, from + std::size_t(k) * 4, 4); break;
        case Stored::bf16: std::memcpy(&half, from + std::size_t(k) * 2, 2), to[k] = from_bf16(half); break;
        case Stored::int8: to[k] = p.scales[row] * static_cast<float>(static_cast<std::int8_t>(from[k])); break;
        case Stored::int4: {
          std::memcpy(&half, from + scale_of(k), 2);
          const Place at = place_of(k);
          to[k] = p.scales[row] * static_cast<float>(half) * static_cast<float>(columns::nibble_value(from[at.byte], at.shift));
        }
      }
    }
  }
}

}  // namespace rarefy::neurons
