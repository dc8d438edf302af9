// The VNNI instance of the 8-bit product.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/dense/contract.h"

RAREFY_BEGIN_VNNI
namespace rarefy::vnni {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/dense/int8_avx512.h"
#include "kernels/dense/int8_rows.h"
#include "kernels/dense/int8_dots.h"
}  // namespace
}  // namespace rarefy::vnni
RAREFY_END_REGION

namespace rarefy::dense {
extern const Kernel int8_vnni = {"vnni", Isa::vnni, Type::int8, 48, 1, 128, 24, 192, vnni::multiply_dots, vnni::finish,
                                   vnni::quantise_row, vnni::range_of_row, nullptr};
}  // namespace rarefy::dense
#endif
