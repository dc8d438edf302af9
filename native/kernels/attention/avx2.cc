// The avx2 instance of attention over one head.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/attention/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/attention/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::attention {
extern const Kernel kernel_avx2 = {Isa::avx2, avx2::attention_prepare, avx2::attention_attend};
}  // namespace rarefy::attention
#endif
