// The avx2 instances of selected columns x few tokens.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/columns/contract.h"
#include "kernels/columns/names.h"
#include "simd/spread.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
using columns::Active, columns::Format, columns::Stored;
#include "simd/avx2.h"
#include "simd/stored_avx2.h"
#include "simd/select_avx2.h"
#include "simd/packed4_avx2.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/columns/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::columns {
#define RAREFY_COLUMNS_avx512(...)
#define RAREFY_COLUMNS_avx2(...) RAREFY_COLUMNS_DEFINE(avx2, __VA_ARGS__)
#define RAREFY_COLUMNS_scalar(...)
#define RAREFY_COLUMNS_vnni(...)
#define RAREFY_COLUMNS(isa, ...) RAREFY_COLUMNS_##isa(__VA_ARGS__)
#include "kernels/columns/columns.inc"
}  // namespace rarefy::columns
#endif
