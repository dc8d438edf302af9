// The VNNI instance of the 8-bit product.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/dense8/contract.h"

RAREFY_BEGIN_VNNI
namespace rarefy::vnni {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/dense8/ints_avx512.h"
#include "kernels/dense8/rows.h"
#include "kernels/dense8/dots.h"
}  // namespace
}  // namespace rarefy::vnni
RAREFY_END_REGION

namespace rarefy::dense8 {
extern const Kernel kernel_vnni = {"vnni", Isa::vnni, 48, 1, vnni::multiply_dots, vnni::finish,
                                   vnni::quantise_row, vnni::range_of_row, nullptr};
}  // namespace rarefy::dense8
#endif
