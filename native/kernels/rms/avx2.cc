// The avx2 instance of the RMS norm.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/rms/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/rms/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::rms {
extern const Kernel kernel_avx2 = {Isa::avx2, avx2::add_rms_norm};
}  // namespace rarefy::rms
#endif
