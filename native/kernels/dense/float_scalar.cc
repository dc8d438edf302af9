// The portable instance of the product of floats.
#include "kernels/dense/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/dense/float_rows.h"
#include "kernels/dense/float_fmas.h"

void multiply(const dense::Product& p) noexcept { multiply_shares<12, 1, 2, 3>(p); }

}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::dense {
extern const Kernel float_scalar = {"scalar", Isa::scalar, Type::fp32, 12, 1, 192, 12, 192,
                                    scalar::multiply, scalar::finish, nullptr, nullptr, nullptr};
}  // namespace rarefy::dense
