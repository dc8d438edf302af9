// The scalar instance of the rotary embedding.
#include "kernels/rope/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/rope/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::rope {
extern const Kernel kernel_scalar = {Isa::scalar, scalar::rotate};
}  // namespace rarefy::rope
