// The scalar instances of constant fan-in x few tokens.
#include "core/regions.h"
#include "kernels/fanin/contract.h"
#include "kernels/fanin/names.h"

namespace rarefy::scalar {
namespace {
using matvec::Stored;
#include "simd/scalar.h"
#include "simd/stored_scalar.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/side_by_side.h"
#include "kernels/row_values.h"
#include "kernels/fanin/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::fanin {
#define RAREFY_FANIN_avx512(...)
#define RAREFY_FANIN_avx2(...)
#define RAREFY_FANIN_scalar(...) RAREFY_FANIN_DEFINE(scalar, __VA_ARGS__)
#define RAREFY_FANIN(isa, ...) RAREFY_FANIN_##isa(__VA_ARGS__)
#include "kernels/fanin/fanin.inc"
}  // namespace rarefy::fanin
