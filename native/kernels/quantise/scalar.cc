// The scalar instance of rounding rows to bytes.
#include "kernels/quantise/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "simd/dot_scalar.h"
#include "kernels/quantise/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::quantise {
extern const Kernel scalar_rows{"quantise-scalar", Isa::scalar, scalar::range, scalar::round_row, scalar::round_each};
}  // namespace rarefy::quantise
