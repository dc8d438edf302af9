// The avx512 instances of selected columns x few tokens.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/columns/contract.h"
#include "kernels/columns/names.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
using columns::Active, columns::Format, columns::Stored;
#include "simd/avx512.h"
#include "simd/stored_avx512.h"
#include "simd/select_avx512.h"
#include "simd/packed4_avx512.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/columns/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::columns {
#define RAREFY_COLUMNS_avx512(...) RAREFY_COLUMNS_DEFINE(avx512, __VA_ARGS__)
#define RAREFY_COLUMNS_avx2(...)
#define RAREFY_COLUMNS_scalar(...)
#define RAREFY_COLUMNS_vnni(...)
#define RAREFY_COLUMNS(isa, ...) RAREFY_COLUMNS_##isa(__VA_ARGS__)
#include "kernels/columns/columns.inc"
}  // namespace rarefy::columns
#endif
