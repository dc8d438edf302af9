// The avx2 instances of streamed weights x few tokens.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/matvec/contract.h"
#include "kernels/matvec/names.h"
#include "simd/spread.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
using matvec::Format, matvec::Stored, matvec::size_of;
#include "simd/avx2.h"
#include "simd/stored_avx2.h"
#include "simd/stored_natural.h"
#include "simd/bytes_avx2.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/matvec/body.h"
#include "kernels/matvec/body8.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::matvec {
#define RAREFY_MATVEC_vbmi2(...)
#define RAREFY_MATVEC_vnni(...)
#define RAREFY_MATVEC_avx512(...)
#define RAREFY_MATVEC_avx2(...) RAREFY_MATVEC_DEFINE(avx2, __VA_ARGS__)
#define RAREFY_MATVEC_scalar(...)
#define RAREFY_MATVEC(isa, ...) RAREFY_MATVEC_##isa(__VA_ARGS__)
#include "kernels/matvec/matvec.inc"
}  // namespace rarefy::matvec
#endif
