#include "pack/groups.h"

#include <algorithm>

#include "pack/keep.h"

namespace rarefy::matvec {
namespace {

// The most entries in any group of `of`; gives up where there are more than `worth`.
int fullest(const WeightSource& weight, int of, int worth) {
  int most = 0;
  for (int row = 0; row < weight.out; ++row)
    for (int first = 0; first < weight.in; first += of) {
      const std::size_t start = static_cast<std::size_t>(row) * weight.in;
      int n = 0;
      for (int k = first; k < std::min(first + of, weight.in); ++k)
        n += weight.codes != nullptr ? weight.codes[start + k] != 0 : kept(weight.values[start + k]);
      most = std::max(most, n);
      if (most > worth) return most;
    }
  return most;
}

}  // namespace

Groups find_groups(const WeightSource& weight) {
  Groups best{16, 16};
  for (const int of : {16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2}) {
    if (weight.in % of != 0) continue;
    const int worth = best.keep * of / best.of;  // as few places as the best so far
    const int keep = std::max(1, fullest(weight, of, worth));
    if (keep <= worth) best = {keep, of};
  }
  return best;
}

}  // namespace rarefy::matvec
