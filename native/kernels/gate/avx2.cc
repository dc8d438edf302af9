// The avx2 instance of act(gate) * up.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/gate/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/activation.h"
#include "kernels/gate/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::gate {
extern const Kernel kernel_avx2 = {Isa::avx2, avx2::gate_multiply};
}  // namespace rarefy::gate
#endif
