// The avx2 instances of the sparse x few tokens product.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/spmv/contract.h"
#include "kernels/spmv/names.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/spmv/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::spmv {
#define RAREFY_SPMV_avx2(format) \
  extern const Kernel RAREFY_SPMV_ID(avx2, format) = {RAREFY_SPMV_NAME(avx2, format), Isa::avx2, Format::format, \
                                                       avx2::multiply<Format::format>};
#define RAREFY_SPMV_scalar(format)
#define RAREFY_SPMV_avx512(format)
#define RAREFY_SPMV(isa, format) RAREFY_SPMV_##isa(format)
#include "kernels/spmv/spmv.inc"
}  // namespace rarefy::spmv
#endif
