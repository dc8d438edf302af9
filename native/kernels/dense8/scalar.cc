// The portable instance of the 8-bit product.
#include "kernels/dense8/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/dense8/ints_scalar.h"
#include "kernels/dense8/rows.h"

void multiply(const dense8::Product& p) noexcept {
  for (int t = 0; t < p.tokens; ++t)
    for (int b = 0; b < p.blocks; ++b) {
      std::int32_t sums[dense8::block_rows] = {};
      const std::uint8_t* x = p.x + t * p.stride;
      const std::int8_t* weight = p.weight + b * p.block_bytes;
      for (int l = 0; l < p.lines; ++l, x += dense8::inputs_of_line)
        for (int r = 0; r < dense8::block_rows; ++r)
          for (int k = 0; k < dense8::inputs_of_line; ++k) sums[r] += x[k] * *weight++;
      __builtin_memcpy(p.sums + t * p.sums_stride + b * dense8::block_rows, sums, sizeof sums);
    }
}

}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::dense8 {
extern const Kernel kernel_scalar = {"scalar", Isa::scalar, 16, 1, scalar::multiply, scalar::finish,
                                     scalar::quantise_row, scalar::range_of_row, nullptr};
}  // namespace rarefy::dense8
