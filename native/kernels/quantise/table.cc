#include "core/where.h"
#include "kernels/quantise/contract.h"

namespace rarefy::quantise {

RAREFY_WHERE_avx512(extern const Kernel avx512_rows;)
RAREFY_WHERE_avx2(extern const Kernel avx2_rows;)
extern const Kernel scalar_rows;

const Kernel& best([[maybe_unused]] Isa isa) noexcept {
  RAREFY_WHERE_avx512(if (isa >= Isa::avx512) return avx512_rows;)
  RAREFY_WHERE_avx2(if (isa >= Isa::avx2) return avx2_rows;)
  return scalar_rows;
}

}  // namespace rarefy::quantise
