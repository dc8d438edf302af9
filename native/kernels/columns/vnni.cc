// The vnni instances of selected columns x few tokens of bytes.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/columns/contract.h"
#include "kernels/columns/names.h"

RAREFY_BEGIN_VNNI
namespace rarefy::vnni {
namespace {
using columns::Active, columns::Format, columns::Stored;
#include "simd/avx512.h"
#include "simd/stored_avx512.h"
#include "simd/select_avx512.h"
#include "simd/packed4_avx512.h"
#include "simd/dot_vnni.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/columns/body.h"
#include "kernels/rounded.h"
#include "kernels/columns/body8.h"
}  // namespace
}  // namespace rarefy::vnni
RAREFY_END_REGION

namespace rarefy::columns {
#define RAREFY_COLUMNS_vnni(...) RAREFY_COLUMNS_DEFINE8(vnni, __VA_ARGS__)
#define RAREFY_COLUMNS_avx512(...)
#define RAREFY_COLUMNS_avx2(...)
#define RAREFY_COLUMNS_scalar(...)
#define RAREFY_COLUMNS(isa, ...) RAREFY_COLUMNS_##isa(__VA_ARGS__)
#include "kernels/columns/columns.inc"
}  // namespace rarefy::columns
#endif
