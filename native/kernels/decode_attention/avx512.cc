// The avx512 instance of attention over a cache.
#if defined(__x86_64__)
#include <immintrin.h>

#include <type_traits>

#include "core/regions.h"
#include "kernels/decode_attention/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/decode_attention/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::decode_attention {
extern const Kernel kernel_avx512 = {Isa::avx512, avx512::decode_attend};
}  // namespace rarefy::decode_attention
#endif
