// The scalar instances of groups of 4-bit weights x few tokens.
#include "core/regions.h"
#include "kernels/matvec/contract.h"
#include "kernels/matvec4/contract.h"
#include "kernels/matvec4/names.h"

namespace rarefy::scalar {
namespace {
using matvec::Stored;
using matvec4::Format;
#include "simd/scalar.h"
#include "simd/nibbles_scalar.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/matvec4/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::matvec4 {
#define RAREFY_MATVEC4_vnni(...)
#define RAREFY_MATVEC4_avx512(...)
#define RAREFY_MATVEC4_avx2(...)
#define RAREFY_MATVEC4_scalar(...) RAREFY_MATVEC4_DEFINE(scalar, __VA_ARGS__)
#define RAREFY_MATVEC4(isa, ...) RAREFY_MATVEC4_##isa(__VA_ARGS__)
#include "kernels/matvec4/matvec4.inc"
}  // namespace rarefy::matvec4
