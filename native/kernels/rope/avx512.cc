// The avx512 instance of the rotary embedding.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/rope/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/rope/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::rope {
extern const Kernel kernel_avx512 = {Isa::avx512, avx512::rotate};
}  // namespace rarefy::rope
#endif
