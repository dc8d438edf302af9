// The portable instance of the arithmetic entry by entry.
#include "kernels/elementwise/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/elementwise/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::elementwise {
extern const Kernel kernel_scalar = {Isa::scalar, scalar::activate_as, scalar::add_spans, scalar::multiply_spans};
}  // namespace rarefy::elementwise
