#include "core/where.h"
#include "kernels/conv_pool/contract.h"

namespace rarefy::conv_pool {

extern const Kernel kernel_scalar;
RAREFY_WHERE_avx2(extern const Kernel kernel_avx2;)
RAREFY_WHERE_avx512(extern const Kernel kernel_avx512;)

const Kernel& kernel([[maybe_unused]] Isa isa) noexcept {
  RAREFY_WHERE_avx512(if (isa >= Isa::avx512) return kernel_avx512;)
  RAREFY_WHERE_avx2(if (isa >= Isa::avx2) return kernel_avx2;)
  return kernel_scalar;
}

}  // namespace rarefy::conv_pool
