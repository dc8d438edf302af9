// The scalar instance of act(gate) * up.
#include "kernels/gate/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/gate/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::gate {
extern const Kernel kernel_scalar = {Isa::scalar, scalar::gate_multiply};
}  // namespace rarefy::gate
