// Which weights a packed matrix stores.
#pragma once

#include <cmath>
#include <limits>

namespace rarefy {

// Not zero and not denormal: a denormal would be flushed by the arithmetic anyway. NaN is kept, to be seen.
inline bool kept(float weight) { return !(std::fabs(weight) < std::numeric_limits<float>::min()); }

}  // namespace rarefy
