// The vnni instances of groups of 4-bit weights x few tokens.
#if defined(__x86_64__)
#include <immintrin.h>

#include <type_traits>

#include "core/regions.h"
#include "kernels/matvec/contract.h"
#include "kernels/matvec4/contract.h"
#include "kernels/matvec4/names.h"

#define RAREFY_DOT_BYTES 1
#define RAREFY_EXPAND_BYTES 0

RAREFY_BEGIN_VNNI
namespace rarefy::vnni {
namespace {
using matvec::Stored;
using matvec4::Format;
#include "simd/avx512.h"
#include "simd/bytes_avx512.h"
#include "simd/nibbles_avx512.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/matvec4/body.h"
#include "kernels/matvec4/listed.h"
}  // namespace
}  // namespace rarefy::vnni
RAREFY_END_REGION

namespace rarefy::matvec4 {
#define RAREFY_MATVEC4_vnni(...) RAREFY_MATVEC4_DEFINE(vnni, __VA_ARGS__)
#define RAREFY_MATVEC4_avx512(...)
#define RAREFY_MATVEC4_avx2(...)
#define RAREFY_MATVEC4_scalar(...)
#define RAREFY_MATVEC4(isa, ...) RAREFY_MATVEC4_##isa(__VA_ARGS__)
#include "kernels/matvec4/matvec4.inc"
}  // namespace rarefy::matvec4
#endif
