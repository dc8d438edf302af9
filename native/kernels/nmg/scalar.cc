// The scalar instances of grouped N:M x few tokens.
#include "core/regions.h"
#include "kernels/nmg/contract.h"
#include "kernels/nmg/names.h"

namespace rarefy::scalar {
namespace {
using matvec::Stored;
#include "simd/scalar.h"
#include "simd/stored_scalar.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/side_by_side.h"
#include "kernels/row_values.h"
#include "kernels/nmg/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::nmg {
#define RAREFY_NMG_avx512(...)
#define RAREFY_NMG_avx2(...)
#define RAREFY_NMG_scalar(...) RAREFY_NMG_DEFINE(scalar, __VA_ARGS__)
#define RAREFY_NMG(isa, ...) RAREFY_NMG_##isa(__VA_ARGS__)
#include "kernels/nmg/nmg.inc"
}  // namespace rarefy::nmg
