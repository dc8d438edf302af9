// The avx512 instance of the choice of inputs.
#if defined(__x86_64__)
#include <cmath>

#include "core/regions.h"
#include "kernels/select/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "kernels/select/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::choose {
extern const Kernel kernel_avx512 = {Isa::avx512,      avx512::keep_above,  avx512::keep_positive,
                                  avx512::sizes_of, avx512::count_sizes, avx512::keep_from};
}  // namespace rarefy::choose
#endif
