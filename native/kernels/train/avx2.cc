// The avx2 instances of the products of sparse training.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/train/contract.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "simd/sums_avx2.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/train/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::train {
extern const Kernel kernel_avx2 = {Isa::avx2, avx2::train_multiply, avx2::train_sample, avx2::load_lines,
                               avx2::finish_lines};
}  // namespace rarefy::train
#endif
