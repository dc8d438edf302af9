// The avx2 instance of attention over a cache.
#if defined(__x86_64__)
#include <immintrin.h>

#include <type_traits>

#include "core/regions.h"
#include "kernels/decode_attention/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/activation.h"
#include "kernels/decode_attention/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::decode_attention {
extern const Kernel kernel_avx2 = {Isa::avx2, avx2::decode_attend};
}  // namespace rarefy::decode_attention
#endif
