// The avx512 instance of act(gate) * up.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/gate/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/gate/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::gate {
extern const Kernel kernel_avx512 = {Isa::avx512, avx512::gate_multiply};
}  // namespace rarefy::gate
#endif
