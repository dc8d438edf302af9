// The scalar instance of the RMS norm.
#include "kernels/rms/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/rms/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::rms {
extern const Kernel kernel_scalar = {Isa::scalar, scalar::add_rms_norm};
}  // namespace rarefy::rms
