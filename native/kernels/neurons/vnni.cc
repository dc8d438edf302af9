// The vnni instances of selected rows x few tokens of bytes.
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/regions.h"
#include "kernels/neurons/contract.h"
#include "kernels/neurons/names.h"

RAREFY_BEGIN_VNNI
namespace rarefy::vnni {
namespace {
using columns::Stored;
#include "simd/avx512.h"
#include "simd/stored_avx512.h"
#include "simd/select_avx512.h"
#include "simd/packed4_avx512.h"
#include "simd/dot_vnni.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/rounded.h"
#include "kernels/neurons/body.h"
#include "kernels/neurons/body8.h"
}  // namespace
}  // namespace rarefy::vnni
RAREFY_END_REGION

namespace rarefy::neurons {
#define RAREFY_NEURONS_vnni(...) RAREFY_NEURONS_DEFINE8(vnni, __VA_ARGS__)
#define RAREFY_NEURONS_avx512(...)
#define RAREFY_NEURONS_avx2(...)
#define RAREFY_NEURONS_scalar(...)
#define RAREFY_NEURONS(isa, ...) RAREFY_NEURONS_##isa(__VA_ARGS__)
#include "kernels/neurons/neurons.inc"
}  // namespace rarefy::neurons
#endif
