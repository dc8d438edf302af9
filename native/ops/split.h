// Row ranges of about equal work.
#pragma once

#include <algorithm>
#include <vector>

namespace rarefy {

// Boundaries (parts + 1) of row ranges with about equal numbers of stored values; starts has rows + 1 entries.
template <class Offset>
std::vector<int> split_rows(const Offset* starts, int rows, int parts) {
  std::vector<int> bounds{0};
  for (int p = 1; p < parts; ++p) {
    const auto target = starts[0] + static_cast<Offset>((starts[rows] - starts[0]) * static_cast<double>(p) / parts);
    const int row = static_cast<int>(std::lower_bound(starts, starts + rows, target) - starts);
    bounds.push_back(std::max(row, bounds.back()));
  }
  bounds.push_back(rows);
  return bounds;
}

// Threads that this many multiply-adds are worth; below it, waking another costs more than it brings.
inline int threads_for(double work, int threads) {
  constexpr double worth_a_thread = 1 << 17;
  return static_cast<int>(std::min<double>(threads, 1 + work / worth_a_thread));
}

}  // namespace rarefy
