// The scalar instances of the sparse convolution that reads its inputs in place.
#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/conv_direct/contract.h"
#include "kernels/conv_direct/names.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/conv/endings.h"
#include "kernels/conv_direct/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::conv_direct {
#define RAREFY_DIRECT_avx2(pixels)
#define RAREFY_DIRECT_avx512(pixels)
#define RAREFY_DIRECT_scalar(pixels) \
  extern const Kernel RAREFY_DIRECT_ID(scalar, pixels) = scalar::make_direct<pixels>(RAREFY_DIRECT_NAME(scalar, pixels), Isa::scalar);
#define RAREFY_DIRECT(isa, pixels) RAREFY_DIRECT_##isa(pixels)
#include "kernels/conv_direct/direct.inc"
}  // namespace rarefy::conv_direct
