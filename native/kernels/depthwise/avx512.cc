// The avx512 instances of the depthwise convolution.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/depthwise/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "simd/dot_avx512.h"
#include "simd/words_avx512.h"
#include "kernels/activation.h"
#include "kernels/conv/strip_avx512.h"
#include "kernels/conv/endings.h"
#include "kernels/conv8/finish.h"
#include "kernels/depthwise/columns.h"
#include "kernels/depthwise/body.h"
#include "kernels/depthwise/body8.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::depthwise {
extern const Kernel kernel_avx512{"depthwise-avx512", Isa::avx512, {avx512::convolve_floats<1>, avx512::convolve_floats<2>}};
extern const Kernel8 kernel8_avx512{"depthwise8-avx512", Isa::avx512, avx512::parts, {avx512::convolve_words<1>, avx512::convolve_words<2>}};
}  // namespace rarefy::depthwise
#endif
