// The scalar instances of the depthwise convolution.
#include "core/regions.h"
#include "kernels/contract.h"
#include "kernels/depthwise/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "simd/dot_scalar.h"
#include "simd/words_scalar.h"
#include "kernels/activation.h"
#include "kernels/conv/strip_scalar.h"
#include "kernels/conv/endings.h"
#include "kernels/conv8/finish.h"
#include "kernels/depthwise/columns.h"
#include "kernels/depthwise/body.h"
#include "kernels/depthwise/body8.h"
}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::depthwise {
extern const Kernel kernel_scalar{"depthwise-scalar", Isa::scalar, {scalar::convolve_floats<1>, scalar::convolve_floats<2>}};
extern const Kernel8 kernel8_scalar{"depthwise8-scalar", Isa::scalar, scalar::parts, {scalar::convolve_words<1>, scalar::convolve_words<2>}};
}  // namespace rarefy::depthwise
