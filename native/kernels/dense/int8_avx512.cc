// The avx512 instance of the 8-bit product, for CPUs without VNNI.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/dense/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/dense/int8_avx512.h"
#include "kernels/dense/int8_rows.h"
#include "kernels/dense/int8_words.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::dense {
extern const Kernel int8_avx512 = {"avx512", Isa::avx512, Type::int8, 16, 1, 0, 32, 192,
                                 avx512::multiply_words<8>, avx512::finish,
                                   avx512::quantise_row, avx512::range_of_row, nullptr};
}  // namespace rarefy::dense
#endif
