// The avx2 instances of the compressed-row operations.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/csr/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/csr/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::csr {
extern const Kernel kernel_avx2 = {Isa::avx2, avx2::csr_multiply, avx2::csr_sample, avx2::load_panel, avx2::finish};
}  // namespace rarefy::csr
#endif
