// The avx512 instance of rounding rows to bytes.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/quantise/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "simd/dot_avx512.h"
#include "kernels/quantise/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::quantise {
extern const Kernel avx512_rows{"quantise-avx512", Isa::avx512, avx512::range, avx512::round_row, avx512::round_each};
}  // namespace rarefy::quantise
#endif
