// The avx2 instances of the sparse convolution that reads its inputs in place.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/conv_direct/contract.h"
#include "kernels/conv_direct/names.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/activation.h"
#include "kernels/conv/endings.h"
#include "kernels/conv_direct/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::conv_direct {
#define RAREFY_DIRECT_scalar(pixels)
#define RAREFY_DIRECT_avx512(pixels)
#define RAREFY_DIRECT_avx2(pixels) \
  extern const Kernel RAREFY_DIRECT_ID(avx2, pixels) = avx2::make_direct<pixels>(RAREFY_DIRECT_NAME(avx2, pixels), Isa::avx2);
#define RAREFY_DIRECT(isa, pixels) RAREFY_DIRECT_##isa(pixels)
#include "kernels/conv_direct/direct.inc"
}  // namespace rarefy::conv_direct
#endif
