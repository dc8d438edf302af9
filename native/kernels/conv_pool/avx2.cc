// The avx2 instance of max pooling.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/conv_pool/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/conv_pool/lanes_avx2.h"
#include "kernels/conv_pool/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::conv_pool {
extern const Kernel kernel_avx2 = {Isa::avx2, avx2::max_pool};
}  // namespace rarefy::conv_pool
#endif
