// The portable instance of the choice of inputs.
#include <cmath>

#include "kernels/select/contract.h"

namespace rarefy::scalar {
namespace {
#include "kernels/select/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::choose {
extern const Kernel kernel_scalar = {Isa::scalar,      scalar::keep_above,  scalar::keep_positive,
                                     scalar::sizes_of, scalar::count_sizes, scalar::keep_from};
}  // namespace rarefy::choose
