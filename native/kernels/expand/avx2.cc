// The AVX2 instance.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/expand/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/expand/shuffles.h"
#include "kernels/expand/floats.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::expand {
extern const Kernel kernel_avx2 = {"avx2", Isa::avx2, false, avx2::expand_bytes, avx2::expand_halves, avx2::expand_widened,
                                   avx2::expand_floats};
}  // namespace rarefy::expand
#endif
