// The avx512 instances of the compressed-row operations.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/csr/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/csr/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::csr {
extern const Kernel kernel_avx512 = {Isa::avx512, avx512::csr_multiply, avx512::csr_sample, avx512::load_panel, avx512::finish};
}  // namespace rarefy::csr
#endif
