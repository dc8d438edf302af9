// The avx512 instances of constant fan-in x few tokens.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/fanin/contract.h"
#include "kernels/fanin/names.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
using matvec::Stored;
#include "simd/avx512.h"
#include "simd/stored_avx512.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/side_by_side.h"
#include "kernels/row_values.h"
#include "kernels/fanin/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::fanin {
#define RAREFY_FANIN_avx512(...) RAREFY_FANIN_DEFINE(avx512, __VA_ARGS__)
#define RAREFY_FANIN_avx2(...)
#define RAREFY_FANIN_scalar(...)
#define RAREFY_FANIN(isa, ...) RAREFY_FANIN_##isa(__VA_ARGS__)
#include "kernels/fanin/fanin.inc"
}  // namespace rarefy::fanin
#endif
