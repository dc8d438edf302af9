// The AVX2 instance of the product of floats.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/dense/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/activation.h"
#include "kernels/dense/float_rows.h"
#include "kernels/dense/float_fmas.h"

void multiply(const dense::Product& p) noexcept { multiply_shares<12, 1, 2, 3, 4, 5, 6>(p); }

}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::dense {
extern const Kernel float_avx2 = {"avx2", Isa::avx2, Type::fp32, 24, 1, 192, 24, 192,
                                    avx2::multiply, avx2::finish, nullptr, nullptr, nullptr};
}  // namespace rarefy::dense
#endif
