// The scalar instances of the sparse x dense tile.
#include "core/regions.h"
#include "kernels/spmm/contract.h"
#include "kernels/spmm/names.h"


namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/side_by_side.h"
#include "kernels/spmm/body.h"
}  // namespace
}  // namespace rarefy::scalar


namespace rarefy::spmm {
#define RAREFY_SPMM_scalar(how, rows, tokens, depth) \
  extern const Kernel RAREFY_SPMM_ID(scalar, how, rows, tokens, depth) = \
      scalar::make_spmm<Weights::how, rows, tokens, depth>(RAREFY_SPMM_NAME(scalar, how, rows, tokens, depth), Isa::scalar);
#define RAREFY_SPMM_avx2(how, rows, tokens, depth)
#define RAREFY_SPMM_avx512(how, rows, tokens, depth)
#define RAREFY_SPMM(isa, how, rows, tokens, depth) RAREFY_SPMM_##isa(how, rows, tokens, depth)
#include "kernels/spmm/spmm.inc"
}  // namespace rarefy::spmm
