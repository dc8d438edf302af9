// The scalar instances of the compressed-row operations.
#include "core/regions.h"
#include "kernels/csr/contract.h"


namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/csr/body.h"
}  // namespace
}  // namespace rarefy::scalar


namespace rarefy::csr {
extern const Kernel kernel_scalar = {Isa::scalar, scalar::csr_multiply, scalar::csr_sample, scalar::load_panel, scalar::finish};
}  // namespace rarefy::csr
