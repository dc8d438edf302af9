// The avx512 instances of products that pick inputs out of registers.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/lookup/contract.h"
#include "kernels/lookup/names.h"

RAREFY_BEGIN_AVX512
namespace rarefy::avx512 {
namespace {
using matvec::Stored;
#include "simd/avx512.h"
#include "simd/stored_avx512.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "simd/table_avx512.h"
#include "kernels/lookup/body.h"
}  // namespace
}  // namespace rarefy::avx512
RAREFY_END_REGION

namespace rarefy::lookup {
#define RAREFY_LOOKUP_avx512(...) RAREFY_LOOKUP_DEFINE(avx512, __VA_ARGS__)
#define RAREFY_LOOKUP_avx2(...)
#define RAREFY_LOOKUP_scalar(...)
#define RAREFY_LOOKUP(isa, ...) RAREFY_LOOKUP_##isa(__VA_ARGS__)
#include "kernels/lookup/lookup.inc"
}  // namespace rarefy::lookup
#endif
