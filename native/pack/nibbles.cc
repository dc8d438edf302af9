#include "pack/nibbles.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace rarefy::matvec4 {
namespace {

constexpr float full_scale = 65535.0f;

void require(const WeightSource& weight, const Kernel& kernel) {
  const std::string who = std::string("pack: kernel ") + kernel.name;
  const int least = kernel.format == Format::wide ? 2 * group_inputs : group_inputs;
  const int width = weight.groups > 0 ? weight.in / weight.groups : weight.in;
  if (weight.bits != 4) throw std::invalid_argument(who + " stores 4-bit codes, got " + std::to_string(weight.bits) + " bits");
  if (weight.groups > 1 && width % least != 0)
    throw std::invalid_argument(who + " takes a scale for every " + std::to_string(least) + " inputs or a multiple of them, got one for every " +
                                std::to_string(width) + "; quantize_weight(..., group=" + std::to_string(least) + ") gives such scales");
  if (weight.in > widest)
    throw std::invalid_argument(who + " takes up to 65536 inputs, got " + std::to_string(weight.in));
}

// One row of the source, seen in groups of 16.
struct Source {
  const WeightSource& weight;
  int row;

  int code(int k) const { return k < weight.in ? weight.codes[static_cast<std::size_t>(row) * weight.in + k] : 0; }
  float scale(int group) const {
    const int width = weight.in / weight.groups, at = std::min(group * group_inputs / std::max(1, width), weight.groups - 1);
    return weight.scales[static_cast<std::size_t>(row) * weight.groups + at];
  }
  bool there(int group) const {
    for (int k = 0; k < group_inputs; ++k)
      if (code(group * group_inputs + k) != 0) return true;
    return false;
  }
  void put(int group, unsigned char* to) const {
    for (int i = 0; i < group_bytes; ++i) {
      const int k = group * group_inputs + 2 * i;
      to[i] = static_cast<unsigned char>((code(k) & 15) | (code(k + 1) & 15) << 4);
    }
  }
};

std::vector<int> kept_groups(const Source& source, const Packed& p) {
  std::vector<int> out;
  for (int g = 0; g < p.groups(); ++g)
    if (p.kernel->format == Format::dense || p.kernel->format == Format::wide || source.there(g)) out.push_back(g);
  return out;
}

std::uint16_t scale16(float scale, float largest) {
  return static_cast<std::uint16_t>(std::clamp(std::nearbyintf(scale / largest * full_scale), 1.0f, full_scale));
}

// Where the parts of group i of a row of `listed` begin, behind the row's start; of its values those of value k.
struct Listed {
  int number_bytes;
  std::size_t filled;  // groups, up to whole fours

  Listed(const Packed& p, std::size_t groups) : number_bytes(p.number_bytes()), filled((groups + together - 1) / together * together) {}
  std::size_t bytes() const { return filled * (number_bytes + scale_bytes + group_bytes); }
  std::size_t number(std::size_t i) const { return i * number_bytes; }
  std::size_t scale(std::size_t i) const { return filled * number_bytes + i * scale_bytes; }
  std::size_t value(std::size_t i, int k) const {
    return filled * (number_bytes + scale_bytes) + i / together * together * group_bytes + i % 2 * group_inputs + k;
  }
  static int shift(std::size_t i) { return i % together < 2 ? 0 : 4; }
};

void put_listed(Packed& p, const Source& source, const std::vector<int>& groups, float largest) {
  const Listed at(p, groups.size());
  unsigned char* const row = p.bytes.data() + p.starts.back();
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const auto number = static_cast<std::uint16_t>(groups[i]);
    const std::uint16_t scale = scale16(source.scale(groups[i]), largest);
    std::memcpy(row + at.number(i), &number, at.number_bytes);  // little-endian
    std::memcpy(row + at.scale(i), &scale, scale_bytes);
    for (int k = 0; k < group_inputs; ++k)
      row[at.value(i, k)] |= static_cast<unsigned char>((source.code(groups[i] * group_inputs + k) & 15) << Listed::shift(i));
  }
}

void append_row(Packed& p, const Source& source) {
  const std::vector<int> groups = kept_groups(source, p);
  const bool listed = p.kernel->format == Format::listed;
  const int step = p.kernel->format == Format::wide ? 2 : 1;
  const std::size_t scales = (groups.size() + step - 1) / step, start = p.bytes.size();
  p.bytes.resize(start + (listed ? Listed(p, groups.size()).bytes() : p.mask_bytes() + scale_bytes * scales + group_bytes * groups.size()));
  unsigned char* const mask = p.bytes.data() + start;
  unsigned char* const to = mask + p.mask_bytes();
  float largest = 0.0f;
  for (const int g : groups) largest = std::max(largest, source.scale(g));
  if (!(largest > 0.0f)) largest = 1.0f;
  double sum = 0.0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (p.kernel->format == Format::groups) mask[groups[i] / 8] |= static_cast<unsigned char>(1u << (groups[i] % 8));
    const std::uint16_t scale = scale16(source.scale(groups[i]), largest);
    if (!listed) {
      std::memcpy(to + scale_bytes * (i / step), &scale, scale_bytes);
      source.put(groups[i], to + scale_bytes * scales + group_bytes * i);
    }
    for (int k = 0; k < group_inputs; ++k) sum += static_cast<double>(scale) * source.code(groups[i] * group_inputs + k);
  }
  if (listed) put_listed(p, source, groups, largest);
  p.entries.push_back(static_cast<std::uint32_t>(groups.size()));
  p.scales.push_back(largest / full_scale);
  p.sums.push_back(static_cast<float>(sum * p.scales.back()));
  p.starts.push_back(p.bytes.size());
}

}  // namespace

Packed pack(const WeightSource& weight, const Kernel& kernel) {
  require(weight, kernel);
  Packed p;
  p.out = weight.out;
  p.in = weight.in;
  p.kernel = &kernel;
  p.starts.push_back(0);
  for (int row = 0; row < weight.out; ++row) append_row(p, {weight, row});
  const std::size_t entries = static_cast<std::size_t>(weight.out) * weight.in;
  p.nnz = entries - static_cast<std::size_t>(std::count(weight.codes, weight.codes + entries, std::int8_t{0}));
  p.bytes.resize(p.bytes.size() + overread);
  p.bytes.shrink_to_fit();
  return p;
}

std::size_t Packed::size() const {
  return bytes.size() + starts.size() * sizeof(std::size_t) + 4 * (entries.size() + scales.size() + sums.size());
}

Rows Packed::rows() const { return {bytes.data(), starts.data(), entries.data(), scales.data(), sums.data(), mask_bytes(), number_bytes()}; }

namespace {

void unpack_listed(const Packed& p, float* weight) {
  for (int row = 0; row < p.out; ++row) {
    const Listed at(p, p.entries[row]);
    const unsigned char* const bytes = p.bytes.data() + p.starts[row];
    for (std::size_t i = 0; i < p.entries[row]; ++i) {
      std::uint16_t number = 0, scale;
      std::memcpy(&number, bytes + at.number(i), at.number_bytes);
      std::memcpy(&scale, bytes + at.scale(i), scale_bytes);
      for (int k = 0; k < group_inputs && number * group_inputs + k < p.in; ++k) {
        const int code = bytes[at.value(i, k)] >> Listed::shift(i) & 15;
        weight[static_cast<std::size_t>(row) * p.in + number * group_inputs + k] =
            p.scales[row] * static_cast<float>(scale) * static_cast<float>(code < 8 ? code : code - 16);
      }
    }
  }
}

}  // namespace

void unpack(const Packed& p, float* weight) {
  std::fill(weight, weight + static_cast<std::size_t>(p.out) * p.in, 0.0f);
  if (p.kernel->format == Format::listed) return unpack_listed(p, weight);
  const int step = p.kernel->format == Format::wide ? 2 : 1;
  for (int row = 0; row < p.out; ++row) {
    const unsigned char* const mask = p.bytes.data() + p.starts[row];
    const unsigned char* const scales = mask + p.mask_bytes();
    const unsigned char* const values = scales + scale_bytes * ((p.entries[row] + step - 1) / step);
    for (int g = 0, i = 0; g < p.groups(); ++g) {
      if (p.kernel->format == Format::groups && !(mask[g / 8] >> (g % 8) & 1)) continue;
      std::uint16_t scale;
      std::memcpy(&scale, scales + scale_bytes * (i / step), scale_bytes);
      for (int k = 0; k < group_inputs && g * group_inputs + k < p.in; ++k) {
        const int code = values[group_bytes * i + k / 2] >> (4 * (k % 2)) & 15;
        weight[static_cast<std::size_t>(row) * p.in + g * group_inputs + k] =
            p.scales[row] * static_cast<float>(scale) * static_cast<float>(code < 8 ? code : code - 16);
      }
      ++i;
    }
  }
}

}  // namespace rarefy::matvec4
