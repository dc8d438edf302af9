// The avx2 instances of grouped N:M x few tokens.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/nmg/contract.h"
#include "kernels/nmg/names.h"
#include "simd/spread.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
using matvec::Stored;
#include "simd/avx2.h"
#include "simd/stored_avx2.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/side_by_side.h"
#include "kernels/row_values.h"
#include "kernels/nmg/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::nmg {
#define RAREFY_NMG_avx512(...)
#define RAREFY_NMG_avx2(...) RAREFY_NMG_DEFINE(avx2, __VA_ARGS__)
#define RAREFY_NMG_scalar(...)
#define RAREFY_NMG(isa, ...) RAREFY_NMG_##isa(__VA_ARGS__)
#include "kernels/nmg/nmg.inc"
}  // namespace rarefy::nmg
#endif
