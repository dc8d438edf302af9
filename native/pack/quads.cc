#include "pack/quads.h"

#include <algorithm>
#include <bit>

namespace rarefy::spmm {
namespace {

// The rows of a pair as bits; side 0 is the pair with row 0.
constexpr int rows_of_pair(int pairing, int side) {
  const int with_first = 1 | 1 << (pairing + 1);
  return side == 0 ? with_first : (1 << quad) - 1 - with_first;
}

int side_of(int pairing, int row) { return rows_of_pair(pairing, 0) >> row & 1 ? 0 : 1; }

}  // namespace

void Quads::arrange(const std::array<const Row*, quad>& rows) {
  std::fill(rows_of_.begin(), rows_of_.end(), std::uint8_t{0});
  std::size_t steps = 0;
  for (int r = 0; r < quad; ++r) {
    steps = std::max(steps, rows[r]->size());
    for (const Entry& entry : *rows[r]) {
      const int feature = entry.offset / offset_unit;
      rows_of_[feature] |= static_cast<std::uint8_t>(1 << r);
      values_[feature][r] = entry.value;
    }
  }
  find_pairs();
  settle_runs(static_cast<int>(steps));
  write(static_cast<int>(steps));
}

// A step serves both pairs of a pairing, so a feature of three rows goes to the pair whose other side is furthest ahead.
void Quads::find_pairs() {
  for (auto& sides : shared_)
    for (auto& features : sides) features.clear();
  const int features = static_cast<int>(rows_of_.size());
  for (int k = 0; k < features; ++k) {
    if (std::popcount(rows_of_[k]) == quad)
      for (auto& side : shared_[0]) side.push_back(k);
    if (std::popcount(rows_of_[k]) != 2) continue;
    for (int p = 0; p < pairings; ++p)
      for (int side = 0; side < 2; ++side)
        if (rows_of_[k] == rows_of_pair(p, side)) shared_[p][side].push_back(k);
  }
  for (int k = 0; k < features; ++k) {
    if (std::popcount(rows_of_[k]) != 3) continue;
    std::vector<int>* to = nullptr;
    std::ptrdiff_t most = 0;
    for (auto& sides : shared_)
      for (int side = 0; side < 2; ++side) {
        const int pairing = static_cast<int>(&sides - shared_), both = rows_of_pair(pairing, side);
        const auto behind = static_cast<std::ptrdiff_t>(sides[1 - side].size() - sides[side].size());
        if ((rows_of_[k] & both) == both && (to == nullptr || behind > most)) to = &sides[side], most = behind;
      }
    to->push_back(k);
  }
}

// A mixed step takes a shared and an own one. Shared steps beyond the own ones stay by themselves where they are of the first
// pairing; of the others so many are given up, and become own ones.
void Quads::settle_runs(int steps) {
  int own = steps;
  for (int p = 0; p < pairings; ++p) {
    kept_[p] = static_cast<int>(std::min(shared_[p][0].size(), shared_[p][1].size()));
    own -= kept_[p];
  }
  for (int p = pairings - 1; p > 0; --p)
    while (kept_[p] > 0 && kept_[1] + kept_[2] > own) --kept_[p], ++own;
  const int mixed = std::min(kept_[0], own - kept_[1] - kept_[2]);
  const int alone = own - mixed - kept_[1] - kept_[2];
  counts_ = {static_cast<std::uint16_t>(steps),    static_cast<std::uint16_t>(mixed),
             static_cast<std::uint16_t>(alone),    static_cast<std::uint16_t>(kept_[1]),
             static_cast<std::uint16_t>(kept_[2]), static_cast<std::uint16_t>(kept_[0] - mixed)};
}

void Quads::write(int steps) {
  for (int p = 0; p < pairings; ++p)
    for (int side = 0; side < 2; ++side)
      for (int i = 0; i < kept_[p]; ++i)
        rows_of_[shared_[p][side][i]] &= static_cast<std::uint8_t>(~rows_of_pair(p, side));
  for (auto& features : alone_) features.clear();
  for (int k = 0; k < static_cast<int>(rows_of_.size()); ++k)
    for (int r = 0; r < quad; ++r)
      if (rows_of_[k] >> r & 1) alone_[r].push_back(k);
  entries_.clear();
  entries_.reserve(static_cast<std::size_t>(steps) * quad);
  int own = 0;
  const auto mixed = [&](int pairing, int count) {
    for (int i = 0; i < count; ++i) write_shared(pairing, i), write_alone(own++);
  };
  mixed(0, counts_[1]);
  for (int i = 0; i < counts_[2]; ++i) write_alone(own++);
  mixed(1, counts_[3]);
  mixed(2, counts_[4]);
  for (int i = counts_[1]; i < kept_[0]; ++i) write_shared(0, i);
}

void Quads::write_shared(int pairing, int step) {
  for (int r = 0; r < quad; ++r) {
    const int feature = shared_[pairing][side_of(pairing, r)][step];
    entries_.push_back({static_cast<std::uint16_t>(feature * offset_unit), values_[feature][r]});
  }
}

void Quads::write_alone(int step) {
  for (int r = 0; r < quad; ++r) {
    if (step >= static_cast<int>(alone_[r].size())) {  // filling: the panel row of zeros behind the last feature
      entries_.push_back({static_cast<std::uint16_t>(rows_of_.size() * offset_unit), 0.0f});
      continue;
    }
    const int feature = alone_[r][step];
    entries_.push_back({static_cast<std::uint16_t>(feature * offset_unit), values_[feature][r]});
  }
}

}  // namespace rarefy::spmm
