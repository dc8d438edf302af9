// The avx2 instances of the sparse 8-bit product.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/block8/contract.h"
#include "kernels/block8/names.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
#include "simd/avx2.h"
#include "simd/dot_avx2.h"
#include "kernels/activation.h"
#include "kernels/block8/panel.h"
#include "kernels/block8/finish.h"
#include "kernels/block8/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::block8 {
#define RAREFY_BLOCK8_avx2(shape, rows, tokens, depth) \
  extern const Kernel RAREFY_BLOCK8_ID(avx2, shape, rows, tokens, depth) = \
      avx2::make_block8<Shape::shape, rows, tokens, depth>(RAREFY_BLOCK8_NAME(avx2, shape, rows, tokens, depth), Isa::avx2);
#define RAREFY_BLOCK8_scalar(shape, rows, tokens, depth)
#define RAREFY_BLOCK8_avx512(shape, rows, tokens, depth)
#define RAREFY_BLOCK8_vnni(shape, rows, tokens, depth)
#define RAREFY_BLOCK8(isa, shape, rows, tokens, depth) RAREFY_BLOCK8_##isa(shape, rows, tokens, depth)
#include "kernels/block8/block8.inc"
}  // namespace rarefy::block8
#endif
