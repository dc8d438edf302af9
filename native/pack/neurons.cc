#include "pack/neurons.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "pack/bits.h"
#include "pack/scales4.h"

namespace rarefy::neurons {
namespace {

// Where a 4-bit value of a row stands: the byte and the shift in it.
struct Place {
  std::size_t byte;
  int shift;
};
Place place_of(int k) {
  const int in_run = k % run_inputs, place = columns::nibble_place(in_run);
  return {std::size_t(k / run_inputs) * run_bytes + 4 * columns::nibble_word(in_run) + place / 2, 4 * (place % 2)};
}
std::size_t scale_of(int k) { return std::size_t(k / run_inputs) * run_bytes + 64 + 2 * (k % run_inputs / scales4::group_inputs); }

void put4(const WeightSource& weight, int row, float most, unsigned char* to) {
  for (int k = 0; k < weight.in; k += scales4::group_inputs) {
    const std::uint16_t scale = scales4::rounded(scales4::of(weight, row, k / scales4::group_inputs), most);
    std::memcpy(to + scale_of(k), &scale, 2);
  }
  for (int k = 0; k < weight.in; ++k) {
    const Place at = place_of(k);
    to[at.byte] |= static_cast<unsigned char>((weight.codes[static_cast<std::size_t>(row) * weight.in + k] & 15) << at.shift);
  }
}

void put(const WeightSource& weight, Stored stored, int row, unsigned char* to) {
  const int size = columns::size_of(stored);
  for (int k = 0; k < weight.in; ++k) {
    const std::size_t at = static_cast<std::size_t>(row) * weight.in + k;
    const std::uint32_t bits = stored == Stored::int8 ? static_cast<std::uint8_t>(weight.codes[at]) : bits_of(weight.values[at], stored == Stored::bf16);
    std::memcpy(to + std::size_t(k) * size, &bits, size);
  }
}

std::size_t count(const Packed& p) {
  AlignedVector<float> all(static_cast<std::size_t>(p.out) * p.in);
  unpack(p, all.data());
  std::size_t n = 0;
  for (const float value : all) n += value != 0.0f;
  return n;
}

}  // namespace

Packed pack(const WeightSource& weight, const Kernel& kernel) {
  const bool four = kernel.stored == Stored::int4;
  if (four) scales4::require(weight, kernel.name);
  if (kernel.stored == Stored::int8 && weight.groups != 1)
    throw std::invalid_argument(std::string("pack: kernel ") + kernel.name + " takes one scale a row, got " + std::to_string(weight.groups));
  Packed p;
  p.out = weight.out;
  p.in = weight.in;
  p.kernel = &kernel;
  p.bytes.resize(p.stride() * p.out + columns::overread);
  for (int row = 0; row < p.out; ++row) {
    unsigned char* const to = p.bytes.data() + row * p.stride();
    const float most = four ? scales4::largest(weight, row) : 1.0f;
    if (four) put4(weight, row, most, to);
    else put(weight, kernel.stored, row, to);
    if (kernel.stored >= Stored::int8) p.scales.push_back(four ? most / scales4::full : weight.scales[row]);
  }
  p.nnz = count(p);
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
          const int code = from[at.byte] >> at.shift & 15;
          to[k] = p.scales[row] * static_cast<float>(half) * static_cast<float>(code < 8 ? code : code - 16);
        }
      }
    }
  }
}

}  // namespace rarefy::neurons
