// The avx512 instances of the dense convolution with fewer products than weights.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/winograd/contract.h"
#include "kernels/winograd/names.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/conv/endings.h"
#include "kernels/conv_pool/lanes_avx512.h"
#include "kernels/winograd/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::winograd {
#define RAREFY_WINOGRAD_scalar(outputs, taps, together)
#define RAREFY_WINOGRAD_avx2(outputs, taps, together)
#define RAREFY_WINOGRAD_avx512(outputs, taps, together) \
  extern const Kernel RAREFY_WINOGRAD_ID(avx512, outputs, taps) = avx512::make_winograd<outputs, together>(RAREFY_WINOGRAD_NAME(avx512, outputs, taps), Isa::avx512);
#define RAREFY_WINOGRAD(isa, outputs, taps, together) RAREFY_WINOGRAD_##isa(outputs, taps, together)
#include "kernels/winograd/winograd.inc"
}  // namespace rarefy::winograd
#endif
