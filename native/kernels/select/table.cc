#include "core/where.h"
#include "kernels/select/contract.h"

namespace rarefy::choose {

extern const Kernel kernel_scalar;
RAREFY_WHERE_avx2(extern const Kernel kernel_avx2;)
RAREFY_WHERE_avx512(extern const Kernel kernel_avx512;)

const Kernel& kernel(Isa isa) noexcept {
  switch (isa) {
    RAREFY_WHERE_avx512(case Isa::amx : case Isa::vbmi2 : case Isa::vnni : case Isa::avx512 : return kernel_avx512;)
    RAREFY_WHERE_avx2(case Isa::avx2 : return kernel_avx2;)
    default: return kernel_scalar;
  }
}

}  // namespace rarefy::choose
