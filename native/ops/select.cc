#include "ops/select.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/select/contract.h"

namespace rarefy {
namespace {

// The keep-th largest, 1 <= keep <= width: the bin of its upper 12 bits first, then a look at what is in that bin.
std::uint32_t kth_largest(const std::uint32_t* size, int width, int keep, std::vector<std::uint32_t>& near) {
  constexpr int shift = 20;
  std::uint32_t counts[1 << 12] = {};
  for (int j = 0; j < width; ++j) ++counts[size[j] >> shift];
  int bin = (1 << 12) - 1, left = keep;
  for (; static_cast<int>(counts[bin]) < left; --bin) left -= static_cast<int>(counts[bin]);
  near.clear();
  for (int j = 0; j < width; ++j)
    if (static_cast<int>(size[j] >> shift) == bin) near.push_back(size[j]);
  std::nth_element(near.begin(), near.begin() + (left - 1), near.end(), std::greater<>());
  return near[static_cast<std::size_t>(left - 1)];
}

using choose::Kernel;

// Keeps what is above the edge, and of what is equal to it the first ones, `keep` in all: mostly that is all of it, which
// takes no look from one to the next.
void keep_from(const Kernel& kernel, const std::uint32_t* size, std::uint32_t edge, int keep, const float* x, int width,
               float* to) {
  int above = 0, from = 0;
  kernel.count(size, edge, width, &above, &from);
  if (from == keep) return kernel.from(size, edge, x, width, to);
  int ties = keep - above;
  for (int j = 0; j < width; ++j) {
    const bool tie = size[j] == edge && ties > 0;
    ties -= tie;
    to[j] = size[j] > edge || tie ? x[j] : 0.0f;
  }
}

void largest(const Kernel& kernel, const Select& by, const float* x, int width, float* to) {
  static thread_local std::vector<std::uint32_t> size, near;
  if (by.keep >= width || by.keep <= 0) {
    if (by.keep <= 0) std::fill(to, to + width, 0.0f);
    else if (to != x) std::copy(x, x + width, to);
    return;
  }
  size.resize(static_cast<std::size_t>(width));
  kernel.sizes(x, by.weight, width, size.data());
  keep_from(kernel, size.data(), kth_largest(size.data(), width, by.keep, near), by.keep, x, width, to);
}

// The `keep` largest of every block, whose edge is found by sorting: blocks are short.
void largest_of_blocks(const Kernel& kernel, const Select& by, const float* x, int width, float* to) {
  static thread_local std::vector<std::uint32_t> size, sorted;
  size.resize(static_cast<std::size_t>(width));
  kernel.sizes(x, by.weight, width, size.data());
  for (int first = 0; first < width; first += by.block) {
    const std::uint32_t* const of = size.data() + first;
    std::uint32_t edge = ~0u >> 1;  // above all
    if (by.keep > 0) {
      sorted.assign(of, of + by.block);
      std::nth_element(sorted.begin(), sorted.begin() + (by.keep - 1), sorted.end(), std::greater<>());
      edge = sorted[static_cast<std::size_t>(by.keep - 1)];
    }
    keep_from(kernel, of, edge, by.keep, x + first, by.block, to + first);
  }
}

// 1 for what is above the edge and for the first of what is equal to it, `keep` in all.
void choose_from(const std::uint32_t* order, std::uint32_t edge, int keep, int targets, unsigned char* to) {
  int above = 0, from = 0;
  for (int j = 0; j < targets; ++j) {
    above += order[j] > edge;
    from += order[j] >= edge;
  }
  for (int j = 0; j < targets; ++j) to[j] = order[j] >= edge;
  int ties = keep - above;
  for (int j = 0; from != keep && j < targets; ++j) to[j] = order[j] > edge || (order[j] == edge && ties-- > 0);
}

}  // namespace

void likeliest(const float* logits, int targets, int keep, int spread, unsigned char* mask) {
  static thread_local std::vector<std::uint32_t> order, near;
  static thread_local std::vector<unsigned char> chosen;
  if (keep <= 0 || keep >= targets) {
    std::fill(mask, mask + std::ptrdiff_t{targets} * spread, static_cast<unsigned char>(keep > 0));
    return;
  }
  order.resize(static_cast<std::size_t>(targets));
  for (int j = 0; j < targets; ++j) {  // as integers that compare like the logits
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(logits[j] + 0.0f);
    order[j] = bits ^ ((bits >> 31) != 0 ? ~0u : 1u << 31);
  }
  chosen.resize(static_cast<std::size_t>(targets));
  unsigned char* const to = spread == 1 ? mask : chosen.data();
  choose_from(order.data(), kth_largest(order.data(), targets, keep, near), keep, targets, to);
  if (spread == 1) return;
  for (int j = 0; j < targets; ++j) std::fill_n(mask + std::ptrdiff_t{j} * spread, spread, chosen[j]);
}

void select(const Select& by, const float* x, std::ptrdiff_t tokens, int width, float* to, Isa isa) {
  const Kernel& kernel = choose::kernel(isa);
  for (std::ptrdiff_t t = 0; t < tokens; ++t, x += width, to += width) {
    switch (by.kind) {
      case Select::Kind::threshold: kernel.above(x, by.threshold, by.step, by.weight, width, to); break;
      case Select::Kind::top: largest(kernel, by, x, width, to); break;
      case Select::Kind::positive: kernel.positive(x, width, to); break;
      case Select::Kind::blocks: largest_of_blocks(kernel, by, x, width, to); break;
      case Select::Kind::all:
      case Select::Kind::foreseen:
        if (to != x) std::copy(x, x + width, to);
    }
  }
}

}  // namespace rarefy
