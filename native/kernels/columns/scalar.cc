// The scalar instances of selected columns x few tokens.
#include "core/regions.h"
#include "kernels/columns/contract.h"
#include "kernels/columns/names.h"

namespace rarefy::scalar {
namespace {
using columns::Active, columns::Format, columns::Stored;
#include "simd/scalar.h"
#include "simd/stored_scalar.h"
#include "simd/select_scalar.h"
#include "simd/packed4_scalar.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/columns/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::columns {
#define RAREFY_COLUMNS_avx512(...)
#define RAREFY_COLUMNS_avx2(...)
#define RAREFY_COLUMNS_scalar(...) RAREFY_COLUMNS_DEFINE(scalar, __VA_ARGS__)
#define RAREFY_COLUMNS_vnni(...)
#define RAREFY_COLUMNS(isa, ...) RAREFY_COLUMNS_##isa(__VA_ARGS__)
#include "kernels/columns/columns.inc"
}  // namespace rarefy::columns
