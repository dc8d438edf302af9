// The vnni instances of the depthwise convolution.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/depthwise/contract.h"

RAREFY_BEGIN_VNNI
namespace rarefy::vnni {
namespace {
#include "simd/avx512.h"
#include "simd/dot_vnni.h"
#include "simd/words_avx512.h"
#include "kernels/activation.h"
#include "kernels/conv/strip_avx512.h"
#include "kernels/conv/endings.h"
#include "kernels/conv8/finish.h"
#include "kernels/depthwise/columns.h"
#include "kernels/depthwise/body8.h"
}  // namespace
}  // namespace rarefy::vnni
RAREFY_END_REGION

namespace rarefy::depthwise {
extern const Kernel8 kernel8_vnni{"depthwise8-vnni", Isa::vnni, vnni::parts, {vnni::convolve_words<1>, vnni::convolve_words<2>}};
}  // namespace rarefy::depthwise
#endif
