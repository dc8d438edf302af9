// The avx512 instances of the products of sparse training.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/train/contract.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "simd/sums_avx512.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/train/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::train {
extern const Kernel kernel_avx512 = {Isa::avx512, avx512::train_multiply, avx512::train_sample, avx512::load_lines,
                               avx512::finish_lines};
}  // namespace rarefy::train
#endif
