// The scalar instances of the dense convolution with fewer products than weights.
#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/winograd/contract.h"
#include "kernels/winograd/names.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/conv/endings.h"
#include "kernels/conv_pool/lanes_scalar.h"
#include "kernels/winograd/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::winograd {
#define RAREFY_WINOGRAD_avx2(outputs, taps, together)
#define RAREFY_WINOGRAD_avx512(outputs, taps, together)
#define RAREFY_WINOGRAD_scalar(outputs, taps, together) \
  extern const Kernel RAREFY_WINOGRAD_ID(scalar, outputs, taps) = scalar::make_winograd<outputs, together>(RAREFY_WINOGRAD_NAME(scalar, outputs, taps), Isa::scalar);
#define RAREFY_WINOGRAD(isa, outputs, taps, together) RAREFY_WINOGRAD_##isa(outputs, taps, together)
#include "kernels/winograd/winograd.inc"
}  // namespace rarefy::winograd
