// The avx512 instances of the sparse convolution tile.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/conv/contract.h"
#include "kernels/conv/names.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
#include "simd/avx512.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/conv/strip_avx512.h"
#include "kernels/conv/strips.h"
#include "kernels/conv/sums.h"
#include "kernels/conv/endings.h"
#include "kernels/conv/lines.h"
#include "kernels/conv/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::conv {
#define RAREFY_CONV_scalar(kind, rows, pixels)
#define RAREFY_CONV_avx2(kind, rows, pixels)
#define RAREFY_CONV_avx512(kind, rows, pixels)               \
  extern const Kernel RAREFY_CONV_ID(avx512, kind, rows, pixels) = \
      avx512::make_conv<RAREFY_CONV_TOGETHER_##kind, rows, pixels>(RAREFY_CONV_NAME(avx512, kind, rows, pixels), Isa::avx512);
#define RAREFY_CONV(isa, kind, rows, pixels) RAREFY_CONV_##isa(kind, rows, pixels)
#include "kernels/conv/conv.inc"
}  // namespace rarefy::conv
#endif
