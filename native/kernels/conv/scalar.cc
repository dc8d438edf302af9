// The scalar instances of the sparse convolution tile.
#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/conv/contract.h"
#include "kernels/conv/names.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/conv/strip_scalar.h"
#include "kernels/conv/strips.h"
#include "kernels/conv/sums.h"
#include "kernels/conv/endings.h"
#include "kernels/conv/lines.h"
#include "kernels/conv/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::conv {
#define RAREFY_CONV_scalar(kind, rows, pixels)               \
  extern const Kernel RAREFY_CONV_ID(scalar, kind, rows, pixels) = \
      scalar::make_conv<RAREFY_CONV_TOGETHER_##kind, rows, pixels>(RAREFY_CONV_NAME(scalar, kind, rows, pixels), Isa::scalar);
#define RAREFY_CONV_avx2(kind, rows, pixels)
#define RAREFY_CONV_avx512(kind, rows, pixels)
#define RAREFY_CONV(isa, kind, rows, pixels) RAREFY_CONV_##isa(kind, rows, pixels)
#include "kernels/conv/conv.inc"
}  // namespace rarefy::conv
