// The scalar instances of selected rows x few tokens.
#include "core/regions.h"
#include "kernels/neurons/contract.h"
#include "kernels/neurons/names.h"

namespace rarefy::scalar {
namespace {
using columns::Stored;
#include "simd/scalar.h"
#include "simd/stored_scalar.h"
#include "simd/select_scalar.h"
#include "simd/packed4_scalar.h"
#include "kernels/activation.h"
#include "kernels/finish_rows.h"
#include "kernels/neurons/body.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::neurons {
#define RAREFY_NEURONS_avx512(...)
#define RAREFY_NEURONS_avx2(...)
#define RAREFY_NEURONS_scalar(...) RAREFY_NEURONS_DEFINE(scalar, __VA_ARGS__)
#define RAREFY_NEURONS_vnni(...)
#define RAREFY_NEURONS(isa, ...) RAREFY_NEURONS_##isa(__VA_ARGS__)
#include "kernels/neurons/neurons.inc"
}  // namespace rarefy::neurons
