// The avx512 instance of max pooling.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/conv_pool/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/conv_pool/lanes_avx512.h"
#include "kernels/conv_pool/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::conv_pool {
extern const Kernel kernel_avx512 = {Isa::avx512, avx512::max_pool};
}  // namespace rarefy::conv_pool
#endif
