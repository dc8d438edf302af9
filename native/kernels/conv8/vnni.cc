// The vnni instances of the sparse 8-bit convolution tile.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/conv8/contract.h"
#include "kernels/conv8/names.h"

RAREFY_BEGIN_VNNI
namespace rarefy::vnni {
namespace {
#include "simd/avx512.h"
#include "simd/dot_vnni.h"
#include "simd/words_avx512.h"
#include "kernels/activation.h"
#include "kernels/conv/strip_avx512.h"
#include "kernels/conv/strips.h"
#include "kernels/conv/sums.h"
#include "kernels/conv/endings.h"
#include "kernels/conv8/finish.h"
#include "kernels/conv8/words.h"
#include "kernels/conv8/body.h"
}  // namespace
}  // namespace rarefy::vnni
RAREFY_END_REGION

namespace rarefy::conv8 {
#define RAREFY_CONV8_vnni(kind, rows, pixels) \
  extern const Kernel RAREFY_CONV8_ID(vnni, kind, rows, pixels) = \
      vnni::make_conv8<RAREFY_CONV8_TOGETHER_##kind, rows, pixels>(RAREFY_CONV8_NAME(vnni, kind, rows, pixels), Isa::vnni);
#define RAREFY_CONV8_scalar(kind, rows, pixels)
#define RAREFY_CONV8_avx2(kind, rows, pixels)
#define RAREFY_CONV8_avx512(kind, rows, pixels)
#define RAREFY_CONV8(isa, kind, rows, pixels) RAREFY_CONV8_##isa(kind, rows, pixels)
#include "kernels/conv8/conv8.inc"
}  // namespace rarefy::conv8
#endif
