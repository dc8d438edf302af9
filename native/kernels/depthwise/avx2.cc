// The avx2 instances of the depthwise convolution.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/depthwise/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "simd/dot_avx2.h"
#include "simd/words_avx2.h"
#include "kernels/activation.h"
#include "kernels/conv/strip_avx2.h"
#include "kernels/conv/endings.h"
#include "kernels/conv8/finish.h"
#include "kernels/depthwise/columns.h"
#include "kernels/depthwise/body.h"
#include "kernels/depthwise/body8.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::depthwise {
extern const Kernel kernel_avx2{"depthwise-avx2", Isa::avx2, {avx2::convolve_floats<1>, avx2::convolve_floats<2>}};
extern const Kernel8 kernel8_avx2{"depthwise8-avx2", Isa::avx2, avx2::parts, {avx2::convolve_words<1>, avx2::convolve_words<2>}};
}  // namespace rarefy::depthwise
#endif
