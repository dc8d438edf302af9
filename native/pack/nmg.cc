#include "pack/nmg.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "pack/keep.h"
#include "pack/row_scales.h"

namespace rarefy::nmg {
namespace {

constexpr int most_ways = 256, widest_group = 16;

bool there(const WeightSource& w, int row, int k) {
  const std::size_t at = static_cast<std::size_t>(row) * w.in + k;
  return w.codes != nullptr ? w.codes[at] != 0 : kept(w.values[at]);
}

unsigned mask_of(const WeightSource& w, int row, int first, int of) {
  unsigned mask = 0;
  for (int i = 0; i < of; ++i) mask |= static_cast<unsigned>(there(w, row, first + i)) << i;
  return mask;
}

// The masks of n of m, those that keep earlier inputs first.
std::vector<unsigned> all_ways(int n, int m) {
  std::vector<unsigned> ways;
  for (unsigned mask = 0; mask < 1u << m; ++mask)
    if (std::popcount(mask) == n) ways.push_back(mask);
  const auto earlier = [](unsigned a, unsigned b) {
    const unsigned lowest = (a ^ b) & (0u - (a ^ b));
    return (a & lowest) != 0;
  };
  std::sort(ways.begin(), ways.end(), earlier);
  return ways;
}

// First columns of the groups of a row, way by way; empty where they are not equally many of each.
std::vector<int> in_order(const WeightSource& w, int row, int m, const std::vector<unsigned>& ways) {
  const int per_way = w.in / m / static_cast<int>(ways.size());
  std::vector<std::vector<int>> by_way(1u << m);
  for (int first = 0; first < w.in; first += m) by_way[mask_of(w, row, first, m)].push_back(first);
  std::vector<int> out;
  for (const unsigned way : ways) {
    if (static_cast<int>(by_way[way].size()) != per_way) return {};
    out.insert(out.end(), by_way[way].begin(), by_way[way].end());
  }
  return out;
}

bool holds(const WeightSource& w, int m, const std::vector<unsigned>& ways) {
  for (int row = 0; row < w.out; ++row)
    if (in_order(w, row, m, ways).empty()) return false;
  return true;
}

// Sets kept and of: from the first row, then for all.
void find(const WeightSource& w, Packed& p) {
  for (int m = 2; m <= widest_group && w.out > 0; ++m) {
    if (w.in == 0 || w.in % m != 0) continue;
    const int n = std::popcount(mask_of(w, 0, 0, m));
    if (n == 0 || n == m || n > most_kept) continue;
    const std::vector<unsigned> ways = all_ways(n, m);
    const int count = static_cast<int>(ways.size());
    if (count > most_ways || w.in / m % count != 0 || !holds(w, m, ways)) continue;
    p.kept = n;
    p.of = m;
    p.per_way = w.in / m / count;
    for (const unsigned way : ways)
      for (int i = 0; i < m; ++i)
        if (way >> i & 1u) p.offsets.push_back(i);
    return;
  }
}

// Where entry `i` of the group of a row in step `step` of its band stands, and the column of the group.
struct Place {
  std::size_t column, value;
};
Place place(const Packed& p, int row, int step, int i) {
  const std::size_t steps = static_cast<std::size_t>(p.ways()) * p.per_way;
  const std::size_t at = (row / band * steps + step) * step_bytes(p.kernel->stored, p.kept);
  return {at + 2 * (row % band), at + 2 * band + static_cast<std::size_t>(matvec::size_of(p.kernel->stored)) * (i * band + row % band)};
}

}  // namespace

Packed pack(const WeightSource& weight, const Kernel& kernel) {
  const std::string who = std::string("pack: kernel ") + kernel.name;
  if (kernel.stored == Stored::int8) require_row_scales(weight, kernel.name);
  if (weight.in > widest) throw std::invalid_argument(who + " takes up to 65536 inputs, got " + std::to_string(weight.in));
  Packed p;
  p.out = weight.out;
  p.in = weight.in;
  p.kernel = &kernel;
  find(weight, p);
  if (p.kept == 0)
    throw std::invalid_argument(who + " holds grouped N:M, where every row uses each way to keep N of M inputs equally often; "
                                      "this weight does not: prune it with pattern \"2:4:8\", or leave the kernel out to have one chosen");
  const std::vector<unsigned> ways = all_ways(p.kept, p.of);
  const int rows = (p.out + band - 1) / band * band, size = matvec::size_of(kernel.stored);
  p.bytes.resize(static_cast<std::size_t>(rows / band) * p.ways() * p.per_way * step_bytes(kernel.stored, p.kept) + overread);
  if (kernel.stored == Stored::int8) {
    p.scales.assign(rows, 1.0f);
    std::copy(weight.scales, weight.scales + p.out, p.scales.begin());
  }
  const auto* const values = weight.codes != nullptr ? reinterpret_cast<const unsigned char*>(weight.codes)
                                                     : reinterpret_cast<const unsigned char*>(weight.values);
  for (int row = 0; row < p.out; ++row) {
    const std::vector<int> groups = in_order(weight, row, p.of, ways);
    for (int step = 0; step < static_cast<int>(groups.size()); ++step)
      for (int i = 0; i < p.kept; ++i) {
        const Place to = place(p, row, step, i);
        const auto first = static_cast<std::uint16_t>(groups[step]);
        std::memcpy(p.bytes.data() + to.column, &first, 2);
        const std::size_t from = static_cast<std::size_t>(row) * p.in + groups[step] + p.offsets[step / p.per_way * p.kept + i];
        std::memcpy(p.bytes.data() + to.value, values + from * size, size);
      }
  }
  return p;
}

void unpack(const Packed& p, float* weight) {
  std::fill(weight, weight + static_cast<std::size_t>(p.out) * p.in, 0.0f);
  for (int row = 0; row < p.out; ++row)
    for (int step = 0; step < p.ways() * p.per_way; ++step)
      for (int i = 0; i < p.kept; ++i) {
        const Place from = place(p, row, step, i);
        std::uint16_t first;
        std::memcpy(&first, p.bytes.data() + from.column, 2);
        float value;
        if (p.kernel->stored == Stored::int8) value = p.scales[row] * static_cast<float>(static_cast<std::int8_t>(p.bytes[from.value]));
        else std::memcpy(&value, p.bytes.data() + from.value, 4);
        weight[static_cast<std::size_t>(row) * p.in + first + p.offsets[step / p.per_way * p.kept + i]] = value;
      }
}

}  // namespace rarefy::nmg
