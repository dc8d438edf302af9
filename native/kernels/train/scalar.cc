// The scalar instances of the products of sparse training.
#include "core/regions.h"
#include "kernels/train/contract.h"


namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "simd/sums_scalar.h"
#include "kernels/activation.h"
#include "kernels/panel.h"
#include "kernels/train/body.h"
}  // namespace
}  // namespace rarefy::scalar


namespace rarefy::train {
extern const Kernel kernel_scalar = {Isa::scalar, scalar::train_multiply, scalar::train_sample, scalar::load_lines,
                               scalar::finish_lines};
}  // namespace rarefy::train
