// The avx2 instance of the rotary embedding.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/rope/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/rope/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::rope {
extern const Kernel kernel_avx2 = {Isa::avx2, avx2::rotate};
}  // namespace rarefy::rope
#endif
