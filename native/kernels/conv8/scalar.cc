// The scalar instances of the sparse 8-bit convolution tile.
#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/conv8/contract.h"
#include "kernels/conv8/names.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "simd/dot_scalar.h"
#include "simd/words_scalar.h"
#include "kernels/activation.h"
#include "kernels/conv/strip_scalar.h"
#include "kernels/conv/strips.h"
#include "kernels/conv/sums.h"
#include "kernels/conv/endings.h"
#include "kernels/conv8/finish.h"
#include "kernels/conv8/words.h"
#include "kernels/conv8/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::conv8 {
#define RAREFY_CONV8_scalar(kind, rows, pixels) \
  extern const Kernel RAREFY_CONV8_ID(scalar, kind, rows, pixels) = \
      scalar::make_conv8<RAREFY_CONV8_TOGETHER_##kind, rows, pixels>(RAREFY_CONV8_NAME(scalar, kind, rows, pixels), Isa::scalar);
#define RAREFY_CONV8_avx2(kind, rows, pixels)
#define RAREFY_CONV8_avx512(kind, rows, pixels)
#define RAREFY_CONV8_vnni(kind, rows, pixels)
#define RAREFY_CONV8(isa, kind, rows, pixels) RAREFY_CONV8_##isa(kind, rows, pixels)
#include "kernels/conv8/conv8.inc"

extern const Words words_scalar = {scalar::from_floats, scalar::words_to_floats, scalar::max_pool_words};
}  // namespace rarefy::conv8
