// Four rows of weights whose steps share panel rows where two of them have a feature in common.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/spmm/contract.h"

namespace rarefy::spmm {

struct Entry {
  std::uint16_t offset;  // the feature in its tile, times offset_unit
  float value;
};
using Row = std::vector<Entry>;

// Puts the entries of four rows in the order that kernels with pairs read. One object serves group after group.
class Quads {
 public:
  explicit Quads(int depth) : rows_of_(depth), values_(depth) {}

  // rows: entries by increasing feature. Afterwards counts() are the group's and entries() its steps, row by row.
  void arrange(const std::array<const Row*, quad>& rows);

  const std::array<std::uint16_t, quad_counts>& counts() const { return counts_; }
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  void find_pairs();
  void settle_runs(int steps);
  void write(int steps);
  void write_shared(int pairing, int step);
  void write_alone(int step);

  std::vector<std::uint8_t> rows_of_;                // by feature: bit r where row r has it
  std::vector<std::array<float, quad>> values_;      // by feature and row
  std::array<std::vector<int>, 2> shared_[pairings];  // features that both rows of a pair have, of either pair
  std::array<std::vector<int>, quad> alone_;          // a row's features that no run shares
  int kept_[pairings];                                // steps of each pairing
  std::array<std::uint16_t, quad_counts> counts_;
  std::vector<Entry> entries_;
};

}  // namespace rarefy::spmm
