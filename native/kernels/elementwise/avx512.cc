// The avx512 instance of the arithmetic entry by entry.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/elementwise/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/elementwise/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::elementwise {
extern const Kernel kernel_avx512 = {Isa::avx512, avx512::activate_as, avx512::add_spans, avx512::multiply_spans};
}  // namespace rarefy::elementwise
#endif
