// The AVX-512 instance of the product of floats.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/dense/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/dense/float_rows.h"
#include "kernels/dense/float_fmas.h"

void multiply(const dense::Product& p) noexcept { multiply_shares<24, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>(p); }

}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::dense {
extern const Kernel float_avx512 = {"avx512", Isa::avx512, Type::fp32, 48, 1, 192, 48, 192,
                                    avx512::multiply, avx512::finish, nullptr, nullptr, nullptr};
}  // namespace rarefy::dense
#endif
