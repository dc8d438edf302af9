// The avx512 instance of attention over one head.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/attention/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/attention/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::attention {
extern const Kernel kernel_avx512 = {Isa::avx512, avx512::attention_prepare, avx512::attention_attend};
}  // namespace rarefy::attention
#endif
