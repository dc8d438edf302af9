// The avx2 instances of groups of 4-bit weights x few tokens.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/matvec/contract.h"
#include "kernels/matvec4/contract.h"
#include "kernels/matvec4/names.h"
#include "kernels/matvec4/places.h"
#include "simd/spread.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
using matvec::Stored;
using matvec4::Format;
#include "simd/avx2.h"
#include "simd/stored_avx2.h"
#include "simd/nibbles_avx2.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/matvec4/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::matvec4 {
#define RAREFY_MATVEC4_vnni(...)
#define RAREFY_MATVEC4_avx512(...)
#define RAREFY_MATVEC4_avx2(...) RAREFY_MATVEC4_DEFINE(avx2, __VA_ARGS__)
#define RAREFY_MATVEC4_scalar(...)
#define RAREFY_MATVEC4(isa, ...) RAREFY_MATVEC4_##isa(__VA_ARGS__)
#include "kernels/matvec4/matvec4.inc"
}  // namespace rarefy::matvec4
#endif
