// The avx512 instance of the RMS norm.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/rms/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/rms/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::rms {
extern const Kernel kernel_avx512 = {Isa::avx512, avx512::add_rms_norm};
}  // namespace rarefy::rms
#endif
