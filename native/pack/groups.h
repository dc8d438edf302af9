// N:M found in a weight.
#pragma once

#include "ops/layout.h"

namespace rarefy::matvec {

// N:M: of every `of` consecutive inputs at most `keep` are there. Units hold as many whole groups as fit 16 columns.
struct Groups {
  int keep = 0, of = 0;  // 0: not N:M, units are 16 inputs
  int columns() const { return of == 0 ? 16 : 16 / of * of; }
  int per_unit() const { return of == 0 ? 0 : 16 / of * keep; }
};

// The N:M with M from 2 to 16 that needs the fewest places, M a divisor of the inputs where one is; ties to the smaller
// M. Every weight has one, if need be M of M.
Groups find_groups(const WeightSource& weight);

}  // namespace rarefy::matvec
