// The scalar instance of attention over one head.
#include "kernels/attention/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/attention/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::attention {
extern const Kernel kernel_scalar = {Isa::scalar, scalar::attention_prepare, scalar::attention_attend};
}  // namespace rarefy::attention
