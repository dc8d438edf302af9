// The avx2 instance of the choice of inputs.
#if defined(__x86_64__)
#include <cmath>

#include "core/regions.h"
#include "kernels/select/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "kernels/select/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::choose {
extern const Kernel kernel_avx2 = {Isa::avx2,      avx2::keep_above,  avx2::keep_positive,
                                  avx2::sizes_of, avx2::count_sizes, avx2::keep_from};
}  // namespace rarefy::choose
#endif
