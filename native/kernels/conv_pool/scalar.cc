// The scalar instance of max pooling.
#include "core/regions.h"
#include "kernels/conv_pool/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/conv_pool/lanes_scalar.h"
#include "kernels/conv_pool/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::conv_pool {
extern const Kernel kernel_scalar = {Isa::scalar, scalar::max_pool};
}  // namespace rarefy::conv_pool
