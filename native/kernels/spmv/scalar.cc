// The scalar instances of the sparse x few tokens product.
#include "core/regions.h"
#include "kernels/spmv/contract.h"
#include "kernels/spmv/names.h"


namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/spmv/body.h"
}  // namespace
}  // namespace rarefy::scalar


namespace rarefy::spmv {
#define RAREFY_SPMV_scalar(format) \
  extern const Kernel RAREFY_SPMV_ID(scalar, format) = {RAREFY_SPMV_NAME(scalar, format), Isa::scalar, Format::format, \
                                                       scalar::multiply<Format::format>};
#define RAREFY_SPMV_avx2(format)
#define RAREFY_SPMV_avx512(format)
#define RAREFY_SPMV(isa, format) RAREFY_SPMV_##isa(format)
#include "kernels/spmv/spmv.inc"
}  // namespace rarefy::spmv
