// The avx2 instances of constant fan-in x few tokens.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/fanin/contract.h"
#include "kernels/fanin/names.h"
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
#include "kernels/fanin/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::fanin {
#define RAREFY_FANIN_avx512(...)
#define RAREFY_FANIN_avx2(...) RAREFY_FANIN_DEFINE(avx2, __VA_ARGS__)
#define RAREFY_FANIN_scalar(...)
#define RAREFY_FANIN(isa, ...) RAREFY_FANIN_##isa(__VA_ARGS__)
#include "kernels/fanin/fanin.inc"
}  // namespace rarefy::fanin
#endif
