// The avx2 instance of rounding rows to bytes.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/quantise/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "simd/dot_avx2.h"
#include "kernels/quantise/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::quantise {
extern const Kernel avx2_rows{"quantise-avx2", Isa::avx2, avx2::range, avx2::round_row, avx2::round_each};
}  // namespace rarefy::quantise
#endif
