// The avx2 instances of products that pick inputs out of registers.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/lookup/contract.h"
#include "kernels/lookup/names.h"
#include "simd/spread.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
using matvec::Stored;
#include "simd/avx2.h"
#include "simd/stored_avx2.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "simd/table_avx2.h"
#include "kernels/lookup/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::lookup {
#define RAREFY_LOOKUP_avx512(...)
#define RAREFY_LOOKUP_avx2(...) RAREFY_LOOKUP_DEFINE(avx2, __VA_ARGS__)
#define RAREFY_LOOKUP_scalar(...)
#define RAREFY_LOOKUP(isa, ...) RAREFY_LOOKUP_##isa(__VA_ARGS__)
#include "kernels/lookup/lookup.inc"
}  // namespace rarefy::lookup
#endif
