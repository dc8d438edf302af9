// The avx2 instance of the arithmetic entry by entry.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/elementwise/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/activation.h"
#include "kernels/elementwise/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::elementwise {
extern const Kernel kernel_avx2 = {Isa::avx2, avx2::activate_as, avx2::add_spans, avx2::multiply_spans};
}  // namespace rarefy::elementwise
#endif
