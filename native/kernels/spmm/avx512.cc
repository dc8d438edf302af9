// The avx512 instances of the sparse x dense tile.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/spmm/contract.h"
#include "kernels/spmm/names.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/side_by_side.h"
#include "kernels/spmm/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::spmm {
#define RAREFY_SPMM_avx512(how, rows, tokens, depth) \
  extern const Kernel RAREFY_SPMM_ID(avx512, how, rows, tokens, depth) = \
      avx512::make_spmm<Weights::how, rows, tokens, depth>(RAREFY_SPMM_NAME(avx512, how, rows, tokens, depth), Isa::avx512);
#define RAREFY_SPMM_scalar(how, rows, tokens, depth)
#define RAREFY_SPMM_avx2(how, rows, tokens, depth)
#define RAREFY_SPMM(isa, how, rows, tokens, depth) RAREFY_SPMM_##isa(how, rows, tokens, depth)
#include "kernels/spmm/spmm.inc"
}  // namespace rarefy::spmm
#endif
