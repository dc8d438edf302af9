// The scalar instance of the layer norm.
#include "kernels/norm/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/norm/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::norm {
extern const Kernel kernel_scalar = {Isa::scalar, scalar::add_layer_norm};
}  // namespace rarefy::norm
