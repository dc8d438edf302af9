// The vnni instances of streamed weights x few tokens.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/matvec/contract.h"
#include "kernels/matvec/names.h"

#define RAREFY_DOT_BYTES 1
#define RAREFY_EXPAND_BYTES 0

RAREFY_BEGIN_VNNI
namespace rarefy::vnni {
namespace {
using matvec::Format, matvec::Stored, matvec::size_of;
#include "simd/avx512.h"
#include "simd/stored_avx512.h"
#include "simd/stored_natural.h"
#include "simd/bytes_avx512.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/matvec/body.h"
#include "kernels/matvec/body8.h"
}  // namespace
}  // namespace rarefy::vnni
RAREFY_END_REGION

namespace rarefy::matvec {
#define RAREFY_MATVEC_vbmi2(...)
#define RAREFY_MATVEC_vnni(...) RAREFY_MATVEC_DEFINE(vnni, __VA_ARGS__)
#define RAREFY_MATVEC_avx512(...)
#define RAREFY_MATVEC_avx2(...)
#define RAREFY_MATVEC_scalar(...)
#define RAREFY_MATVEC(isa, ...) RAREFY_MATVEC_##isa(__VA_ARGS__)
#include "kernels/matvec/matvec.inc"
}  // namespace rarefy::matvec
#endif
