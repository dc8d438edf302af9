// The scalar instances of products that pick inputs out of registers.
#include "core/regions.h"
#include "kernels/lookup/contract.h"
#include "kernels/lookup/names.h"

namespace rarefy::scalar {
namespace {
using matvec::Stored;
#include "simd/scalar.h"
#include "simd/stored_scalar.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "simd/table_scalar.h"
#include "kernels/lookup/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::lookup {
#define RAREFY_LOOKUP_avx512(...)
#define RAREFY_LOOKUP_avx2(...)
#define RAREFY_LOOKUP_scalar(...) RAREFY_LOOKUP_DEFINE(scalar, __VA_ARGS__)
#define RAREFY_LOOKUP(isa, ...) RAREFY_LOOKUP_##isa(__VA_ARGS__)
#include "kernels/lookup/lookup.inc"
}  // namespace rarefy::lookup
