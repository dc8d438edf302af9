// The scalar instances of the sparse 8-bit product.
#include "kernels/block8/contract.h"
#include "kernels/block8/names.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "simd/dot_scalar.h"
#include "kernels/activation.h"
#include "kernels/block8/panel.h"
#include "kernels/block8/finish.h"
#include "kernels/block8/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::block8 {
#define RAREFY_BLOCK8_scalar(shape, rows, tokens, depth) \
  extern const Kernel RAREFY_BLOCK8_ID(scalar, shape, rows, tokens, depth) = \
      scalar::make_block8<Shape::shape, rows, tokens, depth>(RAREFY_BLOCK8_NAME(scalar, shape, rows, tokens, depth), Isa::scalar);
#define RAREFY_BLOCK8_avx2(shape, rows, tokens, depth)
#define RAREFY_BLOCK8_avx512(shape, rows, tokens, depth)
#define RAREFY_BLOCK8_vnni(shape, rows, tokens, depth)
#define RAREFY_BLOCK8(isa, shape, rows, tokens, depth) RAREFY_BLOCK8_##isa(shape, rows, tokens, depth)
#include "kernels/block8/block8.inc"
}  // namespace rarefy::block8
