// The avx2 instance of the layer norm.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/norm/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/norm/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::norm {
extern const Kernel kernel_avx2 = {Isa::avx2, avx2::add_layer_norm};
}  // namespace rarefy::norm
#endif
