// The avx2 instances of the dense convolution with fewer products than weights.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/winograd/contract.h"
#include "kernels/winograd/names.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/activation.h"
#include "kernels/conv/endings.h"
#include "kernels/conv_pool/lanes_avx2.h"
#include "kernels/winograd/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::winograd {
#define RAREFY_WINOGRAD_scalar(outputs, taps, together)
#define RAREFY_WINOGRAD_avx512(outputs, taps, together)
#define RAREFY_WINOGRAD_avx2(outputs, taps, together) \
  extern const Kernel RAREFY_WINOGRAD_ID(avx2, outputs, taps) = avx2::make_winograd<outputs, together>(RAREFY_WINOGRAD_NAME(avx2, outputs, taps), Isa::avx2);
#define RAREFY_WINOGRAD(isa, outputs, taps, together) RAREFY_WINOGRAD_##isa(outputs, taps, together)
#include "kernels/winograd/winograd.inc"
}  // namespace rarefy::winograd
#endif
