// The avx2 instances of selected rows x few tokens.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/neurons/contract.h"
#include "kernels/neurons/names.h"
#include "simd/spread.h"

RAREFY_BEGIN_AVX2
namespace rarefy::avx2 {
namespace {
using columns::Stored;
#include "simd/avx2.h"
#include "simd/stored_avx2.h"
#include "simd/select_avx2.h"
#include "simd/packed4_avx2.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/neurons/body.h"
}  // namespace
}  // namespace rarefy::avx2
RAREFY_END_REGION

namespace rarefy::neurons {
#define RAREFY_NEURONS_avx512(...)
#define RAREFY_NEURONS_avx2(...) RAREFY_NEURONS_DEFINE(avx2, __VA_ARGS__)
#define RAREFY_NEURONS_scalar(...)
#define RAREFY_NEURONS_vnni(...)
#define RAREFY_NEURONS(isa, ...) RAREFY_NEURONS_##isa(__VA_ARGS__)
#include "kernels/neurons/neurons.inc"
}  // namespace rarefy::neurons
#endif
