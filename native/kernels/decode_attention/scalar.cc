// The scalar instance of attention over a cache.
#include <type_traits>

#include "kernels/decode_attention/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/decode_attention/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::decode_attention {
extern const Kernel kernel_scalar = {Isa::scalar, scalar::decode_attend};
}  // namespace rarefy::decode_attention
