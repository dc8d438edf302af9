// The avx512 instance of the layer norm.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/norm/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/norm/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::norm {
extern const Kernel kernel_avx512 = {Isa::avx512, avx512::add_layer_norm};
}  // namespace rarefy::norm
#endif
