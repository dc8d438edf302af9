// The avx2 instance of the 8-bit product.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/dense/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/activation.h"
#include "kernels/dense/int8_avx2.h"
#include "kernels/dense/int8_rows.h"
#include "kernels/dense/int8_words.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::dense {
extern const Kernel int8_avx2 = {"avx2", Isa::avx2, Type::int8, 16, 1, 0, 32, 192,
                                 avx2::multiply_words<2>, avx2::finish,
                                   avx2::quantise_row, avx2::range_of_row, nullptr};
}  // namespace rarefy::dense
#endif
