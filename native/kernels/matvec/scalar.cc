// The scalar instances of streamed weights x few tokens.
#include "core/regions.h"
#include "kernels/matvec/contract.h"
#include "kernels/matvec/names.h"

namespace rarefy::scalar {
namespace {
using matvec::Format, matvec::Stored, matvec::size_of;
#include "simd/scalar.h"
#include "simd/stored_scalar.h"
#include "simd/stored_natural.h"
#include "simd/bytes_scalar.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/matvec/body.h"
#include "kernels/matvec/body8.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::matvec {
#define RAREFY_MATVEC_vbmi2(...)
#define RAREFY_MATVEC_vnni(...)
#define RAREFY_MATVEC_avx512(...)
#define RAREFY_MATVEC_avx2(...)
#define RAREFY_MATVEC_scalar(...) RAREFY_MATVEC_DEFINE(scalar, __VA_ARGS__)
#define RAREFY_MATVEC(isa, ...) RAREFY_MATVEC_##isa(__VA_ARGS__)
#include "kernels/matvec/matvec.inc"
}  // namespace rarefy::matvec
