// The portable instance of the 8-bit product.
#include "kernels/dense/contract.h"

namespace rarefy::scalar {
namespace {
#include "simd/scalar.h"
#include "kernels/activation.h"
#include "kernels/dense/int8_scalar.h"
#include "kernels/dense/int8_rows.h"

void multiply(const dense::Product& p) noexcept {
  for (int t = 0; t < p.tokens; ++t)
    for (int b = 0; b < p.blocks; ++b) {
      std::int32_t sums[dense::block_rows] = {};
      if (p.add) __builtin_memcpy(sums, p.sums + t * p.sums_stride + b * dense::block_rows, sizeof sums);
      const std::uint8_t* x = p.x + t * p.stride;
      const std::uint8_t* weight = p.weight + b * p.block_bytes;
      for (int l = 0; l < p.lines; ++l, x += dense::token_bytes)
        for (int r = 0; r < dense::block_rows; ++r)
          for (int k = 0; k < dense::token_bytes; ++k) sums[r] += x[k] * static_cast<std::int8_t>(*weight++);
      __builtin_memcpy(p.sums + t * p.sums_stride + b * dense::block_rows, sums, sizeof sums);
    }
}

}  // namespace
}  // namespace rarefy::scalar

namespace rarefy::dense {
extern const Kernel int8_scalar = {"scalar", Isa::scalar, Type::int8, 16, 1, 0, 16, 128,
                                 scalar::multiply, scalar::finish,
                                     scalar::quantise_row, scalar::range_of_row, nullptr};
}  // namespace rarefy::dense
